r"""The file of a backup: parts with names and checksums, one after the other, written and read as a stream.

    farmhand-backup\n
    for each part: length of the name (4 bytes), of the data (8), BLAKE2b of both (32), the name, the data
    the last part: its name is empty, its data the BLAKE2b of all checksums before it

So a file that was cut off has no last part, and one that was changed has a part whose checksum is wrong. Who
restores reads all of it before anything is done with it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from farmhand import errors
from farmhand.security.private_files import open_private

MAGIC: Final = b"farmhand-backup\n"
_HEAD: Final = struct.Struct(">IQ32s")
_NAME_BYTES_MAX: Final = 4096
_DATA_BYTES_MAX: Final = 64 * 1024 * 1024  # far above any part; a damaged length must not fill the memory


class Writer:
    """Writes a file that appears under its name only when it is whole, readable by its owner only."""

    def __init__(self, path: Path, *, replace: bool) -> None:
        """Raises `FileExistsError` unless `replace`, `OSError`."""
        if path.exists() and not replace:
            raise FileExistsError(f"{path} exists; another name, or --force to replace it")
        self._path = path
        self._draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        self._file = open_private(self._draft)
        self._file.write(MAGIC)
        self._all = hashlib.blake2b(digest_size=32)

    def add(self, name: str, data: bytes) -> None:
        """One more part."""
        assert name
        self._write(name.encode(), data)

    def _write(self, name: bytes, data: bytes) -> None:
        digest = _digest(name, data)
        self._all.update(digest)
        self._file.write(_HEAD.pack(len(name), len(data), digest))
        self._file.write(name)
        self._file.write(data)

    def finish(self) -> int:
        """Write the last part, wait for the disk, and give the file its name. Its size in bytes."""
        self._write(b"", self._all.digest())
        size = self._file.tell()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._draft.replace(self._path)
        return size

    def abandon(self) -> None:
        """Leave nothing behind. Harmless after `finish`."""
        self._file.close()
        self._draft.unlink(missing_ok=True)


def parts(path: Path) -> Iterator[tuple[str, bytes]]:
    """The parts of a file, each checked as it is read. Raises `BackupDamaged`, `OSError`."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise errors.BackupDamaged(f"{path} is no backup of a farm")
        seen = hashlib.blake2b(digest_size=32)
        while True:
            at = file.tell()
            name_size, data_size, digest = _HEAD.unpack(_exactly(file, _HEAD.size, path))
            if name_size > _NAME_BYTES_MAX or data_size > _DATA_BYTES_MAX:
                raise errors.BackupDamaged(f"{path} is damaged at byte {at}: impossible lengths")
            name, data = _exactly(file, name_size, path), _exactly(file, data_size, path)
            if _digest(name, data) != digest:
                raise errors.BackupDamaged(f"{path} is damaged at byte {at}: a part has the wrong checksum")
            if not name:
                break
            seen.update(digest)
            yield name.decode(), data
        if data != seen.digest() or file.read(1):
            raise errors.BackupDamaged(f"{path} is damaged: parts are missing, or something stands behind its end")


def _digest(name: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(len(name).to_bytes(4, "big") + name + data, digest_size=32).digest()


def _exactly(file: BinaryIO, size: int, path: Path) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise errors.BackupDamaged(f"{path} is cut off at byte {file.tell()}: it was not written or copied to its end")
    return data
