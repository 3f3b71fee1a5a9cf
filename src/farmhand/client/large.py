"""Large values on their way from this process to the farm: a file that the slots can open, or chunks in the engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from farmhand import errors
from farmhand.engine import blobs
from farmhand.model import limits

if TYPE_CHECKING:
    from farmhand.client.link import Link


class Large(msgspec.Struct):
    """In the place of an entry: arguments that travel beside the message."""

    id: str
    size: int
    path: str = ""
    later: LateUpload | None = None  # what stores them before the first message that needs them
    mapped: bool = False  # see `code.container`


def remove_file(path: str) -> None:
    """Remove the file of a large value. Windows keeps one that is mapped; it goes with its folder when the farm ends."""
    with contextlib.suppress(PermissionError):
        Path(path).unlink(missing_ok=True)


def store_bytes(driver: Link, data: bytes) -> Large:
    """Put what is packed already beside the messages. On the session's own thread, so it waits for nothing."""
    blob_id = driver.new_blob()
    if driver.config.spool:
        path = Path(driver.config.spool) / f"a-{driver.session_id}-{blob_id}"
        path.write_bytes(data)
        return Large(blob_id, len(data), str(path))
    late = LateUpload(driver, blob_id)
    late.write(data)
    return Large(blob_id, late.size, later=late)


class LateUpload:
    """Large arguments that were submitted on the session's own thread, in a future's callback: it must not wait for itself."""

    def __init__(self, driver: Link, blob_id: str) -> None:
        self._driver = driver
        self._id = blob_id
        self._pieces: list[bytes] = []
        self._tried = False
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep one piece; the caller's memory may change afterwards."""
        self._pieces.append(bytes(data))
        self.size += len(self._pieces[-1])

    async def stored(self) -> None:
        """Store all of it, once. Raises the engine's refusal; then the next call tries again."""
        if not self._pieces:
            return
        driver = self._driver
        writer = blobs.Writer(driver.publisher, driver.session_id, self._id, again=self._tried)
        self._tried = True
        for piece in self._pieces:
            await writer.write(piece)
        await writer.finish()
        self._pieces.clear()


class Uploader:
    """Takes the pieces of large arguments from the caller's thread and stores them; the caller waits when it is too fast."""

    def __init__(self, driver: Link, blob_id: str) -> None:
        self._driver = driver
        self.blob_id = blob_id
        self.writer = blobs.Writer(driver.publisher, driver.session_id, blob_id)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Store one piece. Raises what the engine says, `EngineFull` also when it says nothing."""
        self._wait(self.writer.write(data))

    def finish(self) -> None:
        """Wait until all pieces are stored. Raises the same."""
        self._wait(self.writer.finish())

    def _wait(self, coroutine: Coroutine[Any, Any, None]) -> None:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._driver.loop)
        try:
            while not wait([future], limits.STORE_RETRY_S).done:
                if self._driver.publisher.stuck:
                    future.cancel()
                    raise errors.EngineFull("the engine stores nothing: its disk is full")
            future.result()
        finally:
            del future  # it keeps what it raised, and that this frame: see `blobs.Writer`

    def withdraw(self) -> None:
        """Forget the pieces that were stored: the task was refused."""
        driver = self._driver
        driver.loop.call_soon_threadsafe(lambda: driver.spawn(driver.results.remove(self.blob_id)))
