"""Values that several calls use, on a node that cannot open them where they are: each is fetched once, and kept for the next."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from pathlib import Path

from farmhand.engine import blobs
from farmhand.engine.connection import Connection
from farmhand.model import limits
from farmhand.model.outcome import BlobRef

_PREFIX = "i-"


class _Kept:
    __slots__ = ("fetching", "size", "unwanted", "users")

    def __init__(self, size: int, fetching: asyncio.Task[None]) -> None:
        self.size = size
        self.fetching = fetching
        self.unwanted = False  # by its session
        self.users = 0  # messages that need it


class InputCache:
    """Files in `folder`, INPUT_CACHE_BYTES at most and whatever is in use; what was used last goes last."""

    def __init__(self, folder: Path, connection: Connection) -> None:
        self._folder = folder
        self._connection = connection
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def claim(self, session: str, ref: BlobRef) -> Path:
        """Where the value will be, for `wait`. Each claim has a `release`."""
        name = f"{_PREFIX}{session}-{ref.id}"
        path = self._folder / name
        kept = self._kept.get(name)
        if kept is None or (kept.fetching.done() and not _is_well(kept.fetching)):
            users = kept.users if kept is not None else 0
            fetching = asyncio.get_running_loop().create_task(self._fetch(session, ref, path))
            kept = self._kept[name] = _Kept(ref.size, fetching)
            kept.users = users
        kept.users += 1
        self._kept.move_to_end(name)
        return path

    async def wait(self, path: Path) -> None:
        """Return when it is there. Raises `StoreFailed` when it is gone."""
        await asyncio.shield(self._kept[path.name].fetching)

    async def _fetch(self, session: str, ref: BlobRef, path: Path) -> None:
        try:
            await fetch_blob(self._connection, session, ref, path)
        except BaseException:
            await asyncio.to_thread(path.unlink, missing_ok=True)  # half a value must not be taken for one
            raise

    def release(self, path: Path) -> bool:
        """A message is done with it. False when it was not claimed here."""
        kept = self._kept.get(path.name)
        if kept is None or path.parent != self._folder:
            return False
        kept.users -= 1
        self._tidy()
        return True

    def forget(self, session: str, blob_ids: tuple[str, ...]) -> None:
        """No message to come needs these of a session; none of its values when none is named."""
        mine = f"{_PREFIX}{session}-"
        names = [mine + blob for blob in blob_ids] or [name for name in self._kept if name.startswith(mine)]
        for name in names:
            if name in self._kept:
                self._kept[name].unwanted = True
        self._tidy()

    def _tidy(self) -> None:
        """Remove what is unwanted, what could not be fetched, and the oldest beyond the limit; nothing that is in use."""
        total = sum(one.size for one in self._kept.values())
        for name in [name for name, one in self._kept.items() if one.users <= 0 and one.fetching.done()]:
            kept = self._kept[name]
            if _is_well(kept.fetching) and not kept.unwanted and total <= limits.INPUT_CACHE_BYTES:
                continue
            total -= self._kept.pop(name).size
            with contextlib.suppress(PermissionError):  # Windows, while a slot still has it mapped
                (self._folder / name).unlink(missing_ok=True)


def _is_well(fetching: asyncio.Task[None]) -> bool:
    return not fetching.cancelled() and fetching.exception() is None


async def fetch_blob(connection: Connection, session: str, ref: BlobRef, path: Path) -> None:
    """Write a blob of a session into a file, over outages of the engine. Raises `StoreFailed` when it is gone."""

    async def attempt(_number: int) -> None:
        with path.open("wb") as file:
            async for chunk in blobs.read(connection, session, ref.id, ref.size):
                await asyncio.to_thread(file.write, chunk)

    await blobs.patiently(connection, attempt)
