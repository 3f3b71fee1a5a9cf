"""Large values on a node: arguments fetched before a run, results sent after it. Never whole in the agent's memory."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable
from pathlib import Path

from farmhand import errors
from farmhand.engine import blobs
from farmhand.engine.connection import Connection
from farmhand.engine.stored import Publisher
from farmhand.model import limits
from farmhand.model.messages import Work
from farmhand.model.outcome import BlobRef
from farmhand.node.slotwire import result_path

log = logging.getLogger("farmhand.node")

_READ_BYTES = 4 * limits.MB


class Spool:
    """Files of large values in `folder`. On a farm of one machine client and slots share them and nothing is copied."""

    def __init__(self, folder: Path, connection: Connection, publisher: Publisher) -> None:
        self.folder = folder
        self._connection = connection
        self._publisher = publisher

    def results(self, name: str) -> str:
        """Where the slot is to put the large results of the run `name`; see `slotwire.result_path`."""
        return str(self.folder / f"r-{name}")

    async def download(self, name: str, work: Work, dropped: set[int], found: dict[int, str]) -> None:
        """Put the paths of a batch's large arguments into `found`, by index; also of those that are fetched in part only.

        name: of the run. The same message may be delivered again while this run or what it left is still in use.

        What is in `dropped` is not wanted any more, and so not there any more either.
        Raises: `StoreFailed` when an argument is not in the engine.
        """
        needed = {place for feed in work.feeds if feed.index not in dropped for place in feed.places}
        for ref in work.blobs:
            is_input = ref.index >= work.count
            if ref.index in dropped or (is_input and ref.index not in needed):
                continue
            if ref.path:
                found[ref.index] = ref.path
                continue
            path = self.folder / f"a-{name}-{ref.index}"
            found[ref.index] = str(path)
            try:
                await blobs.patiently(self._connection, functools.partial(self._fetch, work.session, ref, path))
            except errors.StoreFailed:
                if not is_input:
                    raise
                path.unlink(missing_ok=True)  # the slot names it to the calls that need it

    async def _fetch(self, session: str, ref: BlobRef, path: Path, _number: int) -> None:
        with path.open("wb") as file:
            async for chunk in blobs.read(self._connection, session, ref.id, ref.size):
                await asyncio.to_thread(file.write, chunk)

    async def upload(self, name: str, work: Work, files: Iterable[tuple[int, str, int]]) -> tuple[BlobRef, ...]:
        """Send a batch's large results; waits for an engine that is away or full. Raises `OSError`."""
        refs = []
        for index, file, size in files:
            blob_id = f"{name}-{index}"
            if work.profile.local:
                refs.append(BlobRef(index, blob_id, size, file))
                continue
            path = Path(file)

            async def send(number: int, blob_id: str = blob_id, path: Path = path) -> None:
                await self._send(blobs.Writer(self._publisher, work.session, blob_id, again=number > 0), path)

            await blobs.patiently(self._connection, send, sending=True)
            await asyncio.to_thread(path.unlink)
            refs.append(BlobRef(index, blob_id, size))
        return tuple(refs)

    async def _send(self, writer: blobs.Writer, path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            chunk = await asyncio.to_thread(file.read, _READ_BYTES)
            while chunk:  # the next is read while this one leaves
                chunk, _ = await asyncio.gather(asyncio.to_thread(file.read, _READ_BYTES), writer.write(chunk))
        await writer.finish()

    def remove_unreported(self, name: str, indices: range) -> None:
        """A slot died: delete the results that it may have been writing."""
        for index in indices:
            result_path(self.results(name), index).unlink(missing_ok=True)

    def remove(self, paths: Iterable[str]) -> None:
        """Delete arguments that were fetched and have been used; a client's own files are the client's."""
        for path in map(Path, paths):
            if path.parent == self.folder and path.name.startswith("a-"):
                path.unlink(missing_ok=True)
