"""Large values on a node: arguments fetched before a run, results sent after it. Never whole in the agent's memory."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

from farmhand import errors
from farmhand.engine import blobs
from farmhand.engine.connection import Connection
from farmhand.engine.stored import Publisher
from farmhand.model import limits
from farmhand.model.messages import Work
from farmhand.model.outcome import BlobRef
from farmhand.node.slotwire import result_name

log = logging.getLogger("farmhand.node")

_READ_BYTES = 4 * limits.MB
T = TypeVar("T")


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


class Spool:
    """Files of large values in `folder`. On a farm of one machine client and slots share them and nothing is copied."""

    def __init__(self, folder: Path, connection: Connection, publisher: Publisher) -> None:
        self.folder = folder
        self._connection = connection
        self._publisher = publisher

    async def download(self, work: Work, dropped: set[int], found: dict[int, str]) -> None:
        """Put the paths of a batch's large arguments into `found`, by index; also of those that are fetched in part only.

        What is in `dropped` is not wanted any more, and so not there any more either.
        Raises: `StoreFailed` when an argument is not in the engine.
        """
        for ref in work.blobs:
            if ref.index in dropped:
                continue
            if ref.path:
                found[ref.index] = ref.path
                continue
            path = self.folder / f"a-{work.session}-{ref.id}"
            found[ref.index] = str(path)
            await patiently(self._connection, functools.partial(self._fetch, work.session, ref, path))

    async def _fetch(self, session: str, ref: BlobRef, path: Path, _number: int) -> None:
        with path.open("wb") as file:
            async for chunk in blobs.read(self._connection, session, ref.id, ref.size):
                await asyncio.to_thread(file.write, chunk)

    async def upload(self, work: Work, files: Iterable[tuple[int, str, int]]) -> tuple[BlobRef, ...]:
        """Send a batch's large results; waits for an engine that is away or full. Raises `OSError`."""
        refs = []
        for index, name, size in files:
            blob_id = f"{work.token:x}-{index}"
            if work.profile.local:
                refs.append(BlobRef(index, blob_id, size, name))
                continue
            path = Path(name)

            async def send(number: int, blob_id: str = blob_id, path: Path = path) -> None:
                await self._send(blobs.Writer(self._publisher, work.session, blob_id, again=number > 0), path)

            await patiently(self._connection, send, sending=True)
            await asyncio.to_thread(path.unlink)
            refs.append(BlobRef(index, blob_id, size))
        return tuple(refs)

    async def _send(self, writer: blobs.Writer, path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            chunk = await asyncio.to_thread(file.read, _READ_BYTES)
            while chunk:  # the next is read while this one leaves
                chunk, _ = await asyncio.gather(asyncio.to_thread(file.read, _READ_BYTES), writer.write(chunk))
        await writer.finish()

    def remove_unreported(self, work: Work, first: int) -> None:
        """A slot died: delete the results from index `first` on that it may have been writing."""
        for index in range(first, work.count):
            (self.folder / result_name(work, index)).unlink(missing_ok=True)

    def remove(self, paths: Iterable[str]) -> None:
        """Delete arguments that were fetched and have been used; a client's own files are the client's."""
        for path in map(Path, paths):
            if path.parent == self.folder:
                path.unlink(missing_ok=True)
