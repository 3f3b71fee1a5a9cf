"""A whole stream with its consumers, out of an engine that works and into an empty one: JetStream's own snapshots.

A snapshot is what the stream was at one moment. The engine sends it in chunks and waits, chunk by chunk or every few, until we
have taken them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from farmhand import errors
from farmhand.engine import streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.wire import Msg
from farmhand.model import limits

# Work flows from streams that we do not know by name (backlogs) into WORK, and from there into RESULT. Taken in this order,
# what leaves one stream before its snapshot is in the next one's.
_LAST: Final = (subjects.WORK, subjects.RESULT, subjects.BLOB, subjects.LOG)


class Snapshot(msgspec.Struct):
    """What the engine says of a stream beside its content."""

    name: str
    config: dict[str, Any]
    state: dict[str, Any]


async def stream_names(connection: Connection) -> list[str]:
    """All streams of the farm, in the order in which they must be saved."""
    names: list[str] = []
    while True:
        answer = await streams.call(connection, "STREAM.NAMES", {"offset": len(names)})
        page = answer.get("streams") or []
        names += page
        if not page or len(names) >= int(answer.get("total", 0)):
            rank = {name: place for place, name in enumerate(_LAST, 1)}
            return sorted(names, key=lambda name: (rank.get(name, 0), name))


async def save(connection: Connection, name: str) -> AsyncIterator[Snapshot | bytes]:
    """A stream as it is now: first what the engine says of it, then its content in chunks.

    Raises: `ApiRefused`, `EngineLost`, `StoreFailed`.
    """
    chunks: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = f"{connection.options.inbox}.snapshot.{name}"
    subscription = connection.subscribe(inbox, chunks.put_nowait)
    try:
        body = {"deliver_subject": inbox, "chunk_size": limits.SNAPSHOT_CHUNK_BYTES, "no_consumers": False}
        answer = await streams.call(connection, f"STREAM.SNAPSHOT.{name}", body, timeout=limits.STORE_DEADLINE_S)
        yield Snapshot(name, answer["config"], answer["state"])
        while True:
            try:
                msg = await asyncio.wait_for(chunks.get(), limits.STORE_DEADLINE_S)
            except TimeoutError:
                raise errors.EngineLost(f"the engine stopped in the midst of the stream {name}") from None
            if msg.status >= 300:
                raise errors.StoreFailed(f"the engine gave up the snapshot of {name}: {msg.header('Description')}")
            if msg.reply:
                connection.publish(msg.reply)
            if not msg.data:
                return
            yield bytes(msg.data)
    finally:
        subscription.close()


class Loading:
    """A stream that is being made from its snapshot. There must be none of its name yet."""

    def __init__(self, connection: Connection, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._connection = connection
        self._subject = ""

    async def begin(self) -> None:
        """Announce it. Raises `ApiRefused`, `EngineLost`."""
        snapshot = self.snapshot
        # Its share of the storage was that of the engine it comes from; the steward sets that of the new one.
        body = {"config": {**snapshot.config, "max_bytes": -1}, "state": snapshot.state}
        answer = await streams.call(self._connection, f"STREAM.RESTORE.{snapshot.name}", body)
        self._subject = answer["deliver_subject"]

    async def send(self, chunk: bytes) -> None:
        """The next chunk; an empty one is the end. Raises `ApiRefused`, `EngineFull`, `EngineLost`."""
        msg = await self._connection.request(self._subject, chunk, timeout=limits.STORE_DEADLINE_S)
        if not msg.data:
            return
        answer: dict[str, Any] = msgspec.json.decode(msg.data)
        if problem := answer.get("error"):
            detail = f"the engine did not take the stream {self.snapshot.name} back: {problem.get('description')}"
            raise streams.ApiRefused(detail, int(problem.get("err_code", 0)))

    async def finish(self) -> None:
        """Have the engine make the stream of what it has. Raises the same, and `StoreFailed` when something is missing."""
        await self.send(b"")
        snapshot = self.snapshot
        state = await streams.stream_state(self._connection, snapshot.name)
        if (
            state["last_seq"] != snapshot.state["last_seq"]
        ):  # old messages may be gone: a stream keeps them for a time only
            raise errors.StoreFailed(
                f"the stream {snapshot.name} ends at {state['last_seq']} and not at {snapshot.state['last_seq']}"
            )
