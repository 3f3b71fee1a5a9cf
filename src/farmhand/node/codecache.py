"""A node's store of code and modules by content hash. A blob travels from the engine once for each node."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import secrets
from pathlib import Path

from farmhand import errors
from farmhand.engine import blobs, subjects
from farmhand.engine.connection import Connection
from farmhand.security.private_files import make_private_folder

HASH_CHARACTERS = 32


class CodeCache:
    """Files `<folder>/blobs/<hash>`; a name is there only when its content is whole and has been checked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetches = 0  # blobs that came from the engine
        self._blobs = folder / "blobs"
        make_private_folder(self._blobs)
        self._known: set[str] = set()
        self._fetching: dict[str, asyncio.Task[None]] = {}

    def missing(self, hashes: list[str]) -> list[str]:
        """Those that are not on this node yet."""
        absent = []
        for code in hashes:
            if code in self._known:
                continue
            if (self._blobs / code).exists():
                self._known.add(code)
            else:
                absent.append(code)
        return absent

    async def ensure(self, connection: Connection, hashes: list[str]) -> None:
        """Fetch what is missing; equal requests share one fetch. Raises `BadMessage`, `StoreFailed`, `EngineLost`."""
        for code in self.missing(hashes):
            task = self._fetching.get(code)
            if task is None:
                task = asyncio.get_running_loop().create_task(self._fetch(connection, code))
                self._fetching[code] = task
                task.add_done_callback(functools.partial(self._forget, code))
            await asyncio.shield(task)

    def _forget(self, code: str, _task: asyncio.Task[None]) -> None:
        self._fetching.pop(code, None)

    async def _fetch(self, connection: Connection, code: str) -> None:
        if len(code) != HASH_CHARACTERS or not code.isalnum():
            raise errors.BadMessage(f"{code[:40]!r} is not a hash")
        data = await self._read(connection, code)
        if hashlib.blake2b(data, digest_size=HASH_CHARACTERS // 2).hexdigest() != code:
            raise errors.BadMessage(f"the engine's blob {code} has another content")
        self.fetches += 1
        self._write(code, data)

    def add(self, code: str, data: bytes) -> None:
        """Keep code that a slot of this node has made. Raises `BadMessage`."""
        self._check(code, data)
        if self.missing([code]):
            self._write(code, data)

    def _check(self, code: str, data: bytes) -> None:
        if len(code) != HASH_CHARACTERS or not code.isalnum():
            raise errors.BadMessage(f"{code[:40]!r} is not a hash")
        if hashlib.blake2b(data, digest_size=HASH_CHARACTERS // 2).hexdigest() != code:
            raise errors.BadMessage(f"the blob {code} has another content")

    def _write(self, code: str, data: bytes) -> None:
        draft = self._blobs / f".{code}.{secrets.token_hex(4)}"
        draft.write_bytes(data)
        draft.replace(self._blobs / code)
        self._known.add(code)

    async def _read(self, connection: Connection, code: str) -> bytes:
        """A code blob has a first chunk of 8 digits: the size of the rest."""
        head = await blobs.read_small(connection, subjects.CODE, code)
        if head is None:
            raise errors.StoreFailed(f"code blob {code} is not in the engine")
        size, data = int(head[:16]), bytearray(head[16:])
        if len(data) >= size:
            return bytes(data[:size])
        data.clear()
        async for chunk in blobs.read(connection, subjects.CODE, code, size + 16):
            data += chunk
        return bytes(data[16:])


def code_payload(data: bytes) -> bytes:
    """A code blob as it is stored: its size in 16 digits, then the bytes."""
    return b"%016d" % len(data) + data
