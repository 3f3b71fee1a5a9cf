"""A farm of one slot, on which a task that waits for another can only go on if its place is lent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.executor.conftest import nothing_left_behind, script, tally
from tests.integration.executor.meeting import Meeting

from farmhand import Farm

__all__ = ["meeting", "nothing_left_behind", "one", "script", "tally", "two"]


@pytest.fixture(scope="module")
def one(nothing_left_behind: None) -> Iterator[Farm]:
    with Farm(max_workers=1, output=False) as farm:
        yield farm


@pytest.fixture(scope="module")
def two(nothing_left_behind: None) -> Iterator[Farm]:
    """Two nodes of one slot each; large values go through the engine."""
    with Farm(max_workers=2, nodes=2, output=False, shared_memory=False) as farm:
        yield farm


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    with Meeting() as meeting:
        yield meeting
