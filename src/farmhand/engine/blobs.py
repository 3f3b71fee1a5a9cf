"""Large values beside messages: chunks of 1 MB on the BLOB stream, written with many under way and read in order."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

from farmhand import errors
from farmhand.engine import subjects
from farmhand.engine.connection import Connection
from farmhand.engine.ordered import OrderedReader
from farmhand.engine.stored import Publisher
from farmhand.engine.streams import purge
from farmhand.model import limits

log = logging.getLogger("farmhand.engine")

T = TypeVar("T")

READ_AHEAD_CHUNKS: Final = 16  # chunks waiting in memory for a slow reader; then the engine is asked to pause


class Writer:
    """Cuts a stream of bytes into chunks and stores them. `write` is for the loop; `finish` waits until all are stored."""

    def __init__(self, publisher: Publisher, owner: str, blob_id: str, *, again: bool = False) -> None:
        """`again`: an earlier writer may have stored some of the same chunks."""
        self._publisher = publisher
        self._again = again
        self._owner = owner
        self._id = blob_id
        self._room = asyncio.Semaphore(limits.BLOB_CHUNKS_AHEAD)
        self._error: errors.EngineError | None = None
        self._count = 0
        self._buffer = bytearray()
        self.size = 0

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Store `data`, of any size. Raises the engine's refusal of an earlier chunk."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        while view:
            if not self._buffer and len(view) >= limits.CHUNK_BYTES:
                # A view: the caller's memory is not copied, it must stay as it is until `finish`.
                chunk, view = view[: limits.CHUNK_BYTES], view[limits.CHUNK_BYTES :]
                await self._store(chunk)
                continue
            take = limits.CHUNK_BYTES - len(self._buffer)
            self._buffer += view[:take]
            view = view[take:]
            if len(self._buffer) == limits.CHUNK_BYTES:
                await self._store(bytes(self._buffer))
                self._buffer.clear()

    async def _store(self, chunk: bytes | memoryview) -> None:
        await self._room.acquire()
        self._check()

        def done(_sequence: int, error: errors.EngineError | None) -> None:
            self._error = self._error or error
            self._room.release()

        subject = subjects.blob(self._owner, self._id, self._count)
        self._count += 1
        self._publisher.publish(subject, chunk, done, msg_id=subject, first=self._again)
        await self._publisher.wait_room()

    def _check(self) -> None:
        """Raise the engine's refusal. A new error each time: one that is kept would hold the frames that it came through, and with
        them views of the caller's memory in a circle, which Python 3.11 cannot collect without a crash.
        """
        if self._error is not None:
            raise type(self._error)(*self._error.args)

    async def finish(self) -> None:
        """Store the rest and wait for every answer. Raises `EngineFull`, `StoreFailed`."""
        if self._buffer or not self._count:
            await self._store(bytes(self._buffer))
            self._buffer.clear()
        for _ in range(limits.BLOB_CHUNKS_AHEAD):
            await self._room.acquire()
        self._check()


async def read(connection: Connection, owner: str, blob_id: str, size: int) -> AsyncIterator[bytes | memoryview]:
    """The chunks of a blob, in order, also while it is being written. Raises `StoreFailed` when nothing comes for REQUEST_S."""
    queue: asyncio.Queue[bytes | memoryview] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    early: dict[int, bytes | memoryview] = {}  # stored before an earlier one that was refused and came again
    expected = 0

    def take(_sequence: int, subject: str, chunk: bytes | memoryview) -> None:
        nonlocal expected
        early[int(subject.rpartition(".")[2])] = chunk
        while expected in early:
            queue.put_nowait(early.pop(expected))
            expected += 1
        if queue.qsize() >= READ_AHEAD_CHUNKS:
            reader.pause()

    reader = OrderedReader(connection, subjects.BLOB, subjects.blob(owner, blob_id, "*"), take)
    await reader.start()
    try:
        left = size
        while left > 0:
            asked_at = loop.time()
            try:
                chunk = await asyncio.wait_for(queue.get(), limits.REQUEST_S)
            except TimeoutError:
                if loop.time() - asked_at >= limits.REQUEST_S + limits.STOPPED_S:
                    continue  # we stood still: what has come was not read
                raise errors.StoreFailed(f"{left} bytes of blob {blob_id} are missing") from None
            left -= len(chunk)
            if queue.qsize() < READ_AHEAD_CHUNKS // 2:
                reader.resume()
            yield chunk
    finally:
        reader.close()


async def read_small(connection: Connection, owner: str, blob_id: str) -> bytes | None:
    """A blob of one chunk by a direct get (0.2 ms); None when it is not there or has more chunks."""
    msg = await connection.request(f"$JS.API.DIRECT.GET.BLOB.{subjects.blob(owner, blob_id, 0)}")
    return None if msg.status else bytes(msg.data)


async def remove(connection: Connection, owner: str, blob_id: str = "*") -> None:
    """Remove one blob, or all of an owner."""
    await purge(connection, subjects.BLOB, subjects.blob(owner, blob_id, "*"))


async def patiently(connection: Connection, attempt: Callable[[int], Awaitable[T]], *, sending: bool = False) -> T:
    """Do `attempt(number)`, and again after an outage of the engine.

    What fails while the engine is there fails, but for `sending`, which waits for an engine that is full.
    """
    for number in itertools.count():
        outages: list[None] = []
        on_lost = lambda outages=outages: outages.append(None)  # noqa: E731
        connection.on_disconnected.append(on_lost)
        try:
            return await attempt(number)
        except (errors.EngineError, TimeoutError) as error:
            if isinstance(error, errors.StoreFailed) and not (sending or outages):
                raise
            log.warning("data of a task is tried again: %s", error or "no answer")
        finally:
            connection.on_disconnected.remove(on_lost)
        await asyncio.sleep(limits.STORE_RETRY_S)
        await connection.wait_connected()
    raise AssertionError("it counts for ever")
