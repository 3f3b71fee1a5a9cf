"""Files that only their owner may read: keys, tokens and the lists that hold them.

Rule 1: no moment exists in which another user can read the content; the mode is set when the file is made, not after.
Rule 2: a reader sees the old content or the new, never a part.
On Windows the mode says nothing; there the user's profile folder keeps others out.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO, Final

from farmhand import errors

MODE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_BINARY: Final = getattr(os, "O_BINARY", 0)  # without it Windows rewrites line ends


def write_private(path: Path, content: bytes, *, replace: bool = True, durable: bool = True) -> None:
    """Write `path` in one step, mode 0600. `durable` also waits until the disk has it.

    Raises: `FileExistsError` when it exists and `replace` is false, `OSError`.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, MODE)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            _rename_to_new(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    if durable:
        _sync_folder(path.parent)


def open_private(path: Path) -> BinaryIO:
    """A new file of mode 0600, open for writing. Raises `FileExistsError`, `OSError`."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, MODE), "wb")


def _rename_to_new(draft: Path, path: Path) -> None:
    """A plain rename would overwrite what another process made meanwhile."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the narrow race is all that is left there
        if path.exists():
            raise FileExistsError(str(path)) from None
        draft.replace(path)
    else:
        draft.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut. Windows cannot open a folder and needs none of this."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def read_private(path: Path) -> bytes:
    """The content of `path`. Raises `CredentialMissing`, or `CredentialUnsafe` when another user has access to it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise errors.CredentialMissing(f"there is no {path}") from None
    with file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)  # of the open file: its name may point elsewhere by now
        if os.name == "posix" and mode & _OTHERS:
            raise errors.CredentialUnsafe(
                f"{path} has mode {mode:04o}, so other users of this machine have access to it; "
                f"run: chmod 600 '{path}' (and replace the key if somebody may have read it)"
            )
        return file.read()


def others_may_read(path: Path) -> bool:
    """Whether other users of this machine have access to a file."""
    return os.name == "posix" and bool(stat.S_IMODE(path.stat().st_mode) & _OTHERS)


def make_private_folder(path: Path) -> None:
    """Make `path` and its missing parents, mode 0700. A folder that is there already keeps its mode."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
