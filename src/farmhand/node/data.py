"""Large values on a node: arguments fetched before a run, results sent after it. Never whole in the agent's memory."""

from __future__ import annotations

import asyncio
import contextlib
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
from farmhand.node.inputcache import InputCache, fetch_blob
from farmhand.node.slotwire import result_path

log = logging.getLogger("farmhand.node")

_READ_BYTES = 4 * limits.MB


class Spool:
    """Files of large values in `folder`. On a farm of one machine client and slots share them and nothing is copied."""

    def __init__(self, folder: Path, connection: Connection, publisher: Publisher) -> None:
        self.folder = folder
        self._connection = connection
        self._publisher = publisher
        self._inputs = InputCache(folder, connection)

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
        inputs: list[Path] = []
        for ref in work.blobs:
            is_input = ref.index >= work.count
            if ref.index in dropped or (is_input and ref.index not in needed):
                continue
            if ref.path:
                found[ref.index] = ref.path
                continue
            if is_input:
                claimed = self._inputs.claim(work.session, ref)
                found[ref.index] = str(claimed)
                inputs.append(claimed)
                continue
            path = self.folder / f"a-{name}-{ref.index}"
            found[ref.index] = str(path)
            await self.fetch(work.session, ref, path)
        for claimed in inputs:
            with contextlib.suppress(errors.StoreFailed):  # it is gone: the slot names it to the calls that need it
                await self._inputs.wait(claimed)

    async def fetch(self, session: str, ref: BlobRef, path: Path) -> None:
        """See `fetch_blob`."""
        await fetch_blob(self._connection, session, ref, path)

    async def upload(self, name: str, work: Work, files: Iterable[tuple[int, str, int, bool]]) -> tuple[BlobRef, ...]:
        """Send a batch's large results; waits for an engine that is away or full. Raises `OSError`."""
        refs = []
        for index, file, size, mapped in files:
            blob_id = f"{name}-{index}"
            if work.profile.local:
                refs.append(BlobRef(index, blob_id, size, file, mapped))
                continue
            await self.send(work.session, blob_id, Path(file))
            refs.append(BlobRef(index, blob_id, size, mapped=mapped))
        return tuple(refs)

    async def send(self, session: str, blob_id: str, path: Path) -> None:
        """Make a blob of a file and remove the file; waits for an engine that is away or full."""

        async def attempt(number: int) -> None:
            await self._send(blobs.Writer(self._publisher, session, blob_id, again=number > 0), path)

        await blobs.patiently(self._connection, attempt, sending=True)
        await asyncio.to_thread(path.unlink)

    async def _send(self, writer: blobs.Writer, path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            chunk = await asyncio.to_thread(file.read, _READ_BYTES)
            while chunk:  # the next is read while this one leaves
                chunk, _ = await asyncio.gather(asyncio.to_thread(file.read, _READ_BYTES), writer.write(chunk))
        await writer.finish()

    def forget(self, session: str, blob_ids: tuple[str, ...]) -> None:
        """No call to come needs these values of a session; none of its values when none is named."""
        self._inputs.forget(session, blob_ids)

    def remove_unreported(self, name: str, indices: range) -> None:
        """A slot died: delete the results that it may have been writing."""
        for index in indices:
            result_path(self.results(name), index).unlink(missing_ok=True)

    def remove(self, paths: Iterable[str]) -> None:
        """Delete arguments that were fetched and have been used; a client's own files are the client's."""
        for path in map(Path, paths):
            if not self._inputs.release(path) and path.parent == self.folder and path.name.startswith("a-"):
                with contextlib.suppress(PermissionError):  # Windows, while the slot still has it mapped
                    path.unlink(missing_ok=True)
