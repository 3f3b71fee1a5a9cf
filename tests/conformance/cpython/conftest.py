"""Counts the outcomes of CPython's tests, prints the number and leaves a record of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.conformance.cpython.tally import Tally

MODULE = "test_cpython_executor.py"
tally = pytest.StashKey[Tally]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    report = yield
    if item.path.name == MODULE:  # of several test processes one runs the whole module
        count = item.config.stash.setdefault(tally, Tally())
        if report.when == "call" or not report.passed:
            count.on_outcome(".".join(item.nodeid.split("::")[1:]), report.outcome)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    count, folder = session.config.stash.get(tally, None), os.environ.get("FARMHAND_TEST_RESULTS")
    if count is not None and folder:
        count.write(Path(folder))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if (count := config.stash.get(tally, None)) is not None:
        terminalreporter.write_line(count.summary)


@pytest.fixture
def executor_tally(request: pytest.FixtureRequest) -> Tally:
    return request.config.stash.setdefault(tally, Tally())
