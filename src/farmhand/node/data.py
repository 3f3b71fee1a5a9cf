"""Large values on a node: arguments fetched before a run, results sent after it. Never whole in the agent's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from farmhand.engine import blobs
from farmhand.engine.connection import Connection
from farmhand.engine.stored import Publisher
from farmhand.model import limits
from farmhand.model.messages import Work
from farmhand.model.outcome import BlobRef

_READ_BYTES = 4 * limits.MB


class Spool:
    """Files of large values in `folder`. On a farm of one machine client and slots share them and nothing is copied."""

    def __init__(self, folder: Path, connection: Connection, publisher: Publisher) -> None:
        self.folder = folder
        self._connection = connection
        self._publisher = publisher

    async def download(self, work: Work, dropped: set[int]) -> dict[int, str]:
        """The paths of a batch's large arguments, by index. Raises `StoreFailed` when one is not in the engine.

        What is in `dropped` is not wanted any more, and so not there any more either.
        """
        found = {}
        for ref in work.blobs:
            if ref.index in dropped:
                continue
            if ref.path:
                found[ref.index] = ref.path
                continue
            path = self.folder / f"a-{work.session}-{ref.id}"
            with path.open("wb") as file:
                async for chunk in blobs.read(self._connection, work.session, ref.id, ref.size):
                    await asyncio.to_thread(file.write, chunk)
            found[ref.index] = str(path)
        return found

    async def upload(self, work: Work, files: Iterable[tuple[int, str, int]]) -> tuple[BlobRef, ...]:
        """Send a batch's large results. Raises `EngineFull`, `StoreFailed`, `OSError`."""
        refs = []
        for index, name, size in files:
            blob_id = f"{work.token:x}-{index}"
            if work.profile.local:
                refs.append(BlobRef(index, blob_id, size, name))
                continue
            writer = blobs.Writer(self._publisher, work.session, blob_id)
            path = Path(name)
            with path.open("rb", buffering=0) as file:
                while chunk := await asyncio.to_thread(file.read, _READ_BYTES):
                    await writer.write(chunk)
            await writer.finish()
            path.unlink()
            refs.append(BlobRef(index, blob_id, size))
        return tuple(refs)

    def remove(self, paths: Iterable[str]) -> None:
        """Delete arguments that were fetched and have been used; a client's own files are the client's."""
        for path in map(Path, paths):
            if path.parent == self.folder:
                path.unlink(missing_ok=True)
