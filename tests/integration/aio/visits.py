"""`Meeting` for tests that run in an event loop, and waits with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.integration.executor.meeting import PATIENCE_S, Meeting, Visitor

T = TypeVar("T")


async def soon(awaited: Awaitable[T]) -> T:
    """Its outcome; only a broken product makes this a `TimeoutError`."""
    async with asyncio.timeout(PATIENCE_S):
        return await awaited


async def visit(meeting: Meeting) -> Visitor:
    """The next task that arrives."""
    return await asyncio.to_thread(meeting.wait)


async def gone(visitor: Visitor) -> None:
    """Return when no process of the visitor lives."""
    await asyncio.to_thread(visitor.wait_gone)


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - what it asks has no event
            await asyncio.sleep(0)
