"""What tasks have printed, read back from the engine: also when their node, their slot and their client are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from farmhand import errors
from farmhand.engine import streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.ordered import OrderedReader
from farmhand.model import asked, limits, messages
from farmhand.model.asked import Asked
from farmhand.model.messages import Output

_READ_AHEAD: Final = 1024  # messages in memory before the engine is asked to pause


class Printed(msgspec.Struct, frozen=True):
    """What a task printed, as the engine stored it at `at`, in seconds since 1970."""

    at: float
    session: str
    output: Output


async def understand(connection: Connection, text: str) -> Asked:
    """Who is meant, among the sessions of which something is kept. Raises `BadOption`."""
    kept = await streams.subjects_in(connection, subjects.LOG)
    return asked.understand(text, {name.split(".")[1] for name in kept})


async def read(
    connection: Connection, wanted: Asked, since: str = "", *, follow: bool
) -> AsyncIterator[Printed | None]:
    """What was printed, in the engine's order; then None once; then, with `follow`, what is printed from now on.

    `since`: an RFC 3339 time. Raises: `EngineLost` when the engine does not come back in the midst of it, `ApiRefused`.
    """
    queue: asyncio.Queue[tuple[Printed, int]] = asyncio.Queue()

    def take(_sequence: int, subject: str, data: bytes | memoryview) -> None:
        found = Printed(reader.stored_at, subject.split(".")[1], messages.read_output(data))
        queue.put_nowait((found, reader.pending))
        if queue.qsize() >= _READ_AHEAD:
            reader.pause()

    reader = OrderedReader(connection, subjects.LOG, subjects.output(wanted.session or "*", "*"), take, since=since)
    await reader.start()
    try:
        left = reader.pending
        while left:
            try:
                found, left = await asyncio.wait_for(queue.get(), limits.STORE_DEADLINE_S)
            except TimeoutError:
                raise errors.EngineLost("the engine did not send the rest of what was printed") from None
            if queue.qsize() < _READ_AHEAD // 2:
                reader.resume()
            if wanted.wants(found.output.name, found.output.number):
                yield found
        yield None
        while follow:
            found, _ = await queue.get()
            if queue.qsize() < _READ_AHEAD // 2:
                reader.resume()
            if wanted.wants(found.output.name, found.output.number):
                yield found
    finally:
        reader.close()
