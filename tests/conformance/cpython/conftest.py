"""Counts the outcomes of CPython's tests, prints the number and leaves a record of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.conformance.cpython.tally import Tally

MODULE = "test_cpython_executor.py"
tally = pytest.StashKey[Tally]()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Begins the count when the first of these tests shows up."""
    if item.path.name == MODULE:
        item.config.stash.setdefault(tally, Tally())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    report = yield
    count = item.config.stash.get(tally, None)
    if count is not None and item.path.name == MODULE and (report.when == "call" or not report.passed):
        count.on_outcome(".".join(item.nodeid.split("::")[1:]), report.outcome)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    count = config.stash.get(tally, None)
    if count is None:
        return
    terminalreporter.write_line(count.summary)
    if folder := os.environ.get("FARMHAND_TEST_RESULTS"):
        count.write(Path(folder))


@pytest.fixture
def executor_tally(request: pytest.FixtureRequest) -> Tally:
    return request.config.stash[tally]
