"""An event loop and an `AsyncFarm` on it that a module's tests share; the rest is that of the executor's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.integration.executor.conftest import meeting, nothing_left_behind, script, tally

from farmhand import AsyncFarm

__all__ = ["meeting", "nothing_left_behind", "script", "tally"]


@pytest.fixture(scope="module")
def runner(nothing_left_behind: None) -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def farm(runner: asyncio.Runner) -> Iterator[AsyncFarm]:
    """A farm of two slots on the loop of `runner`."""

    async def opened() -> AsyncFarm:
        return await AsyncFarm(max_workers=2, output=False)

    farm = runner.run(opened())
    yield farm
    runner.run(farm.shutdown())
