"""Who has a folder: a lock that the kernel lets go of when its holder dies, however it dies.

Two processes that want the same lock at the same moment are told apart by the kernel, so nothing here is decided by
looking first. The file says who holds it, for people; what it says is only true while the lock is held.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from farmhand import errors
from farmhand.security.private_files import MODE, make_private_folder

TRIES: Final = 10  # somebody who only looks holds it for microseconds: see `holder`
TRY_PAUSE_S: Final = 0.01
_PLACE: Final = 1 << 20  # Windows keeps others from reading a locked part, so the lock is far behind the text


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock."""

    pid: int
    ends_within: float = 30.0  # seconds from a request to end to its end, at most


class Lock:
    """A lock that this process holds, from its making to `release` or to the end of the process."""

    def __init__(self, path: Path, holder: Holder, *, wait: bool = False) -> None:
        """Raises `FarmRunning` when another process holds it; with `wait` it waits, on a thread that may."""
        self.path = path
        make_private_folder(path.parent)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), MODE)
        if wait:
            _wait_lock(self._fd)
        for left in () if wait else reversed(range(TRIES)):
            if _try_lock(self._fd):
                break
            if not left:
                os.close(self._fd)
                raise errors.FarmRunning(f"{path.parent} is in use by process {_read(path).pid or 'unknown'}")
            time.sleep(TRY_PAUSE_S)
        os.ftruncate(self._fd, 0)
        os.write(self._fd, msgspec.json.encode(holder))

    def fileno(self) -> int:
        """The descriptor: whoever inherits it holds the lock too, and longer than this process if need be."""
        return self._fd

    def release(self) -> None:
        """Let go of it. Harmless when that was done."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder(path: Path) -> Holder | None:
    """Who holds the lock now; None when nobody does. A pid of 0: somebody who has not said who it is yet."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        if _try_lock(fd):
            return None
    finally:
        os.close(fd)
    return _read(path)


def _read(path: Path) -> Holder:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    return Holder(0)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        os.lseek(fd, _PLACE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
        return True

    def _wait_lock(fd: int) -> None:
        while not _try_lock(fd):
            os.lseek(fd, _PLACE, os.SEEK_SET)
            with contextlib.suppress(OSError):  # after ten seconds
                msvcrt.locking(fd, msvcrt.LK_LOCK, 1)
                os.lseek(fd, 0, os.SEEK_SET)
                return

else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _wait_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)
