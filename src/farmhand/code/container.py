"""Large values in files: the pickle first, its large buffers behind it, each at the start of a page.

So a slot, or a client on the same machine, maps the file, and arrays and tables are views of it: nothing is copied. A value without
large buffers is a pickle and nothing else.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from farmhand.code.limits import MAPPED_BYTES_MIN
from farmhand.code.memory import view_of
from farmhand.code.values import Buffer, load_from, note_result, write_value

_MAGIC: Final = b"\nbuffers:farmhand"  # no pickle ends like this, but with a dot
_SIZE: Final = struct.Struct("<Q")
_TAIL: Final = struct.Struct(f"<QQ{len(_MAGIC)}s")  # bytes of the pickle, number of buffers
_PAGE: Final = 4096


def write_mapped(value: Any, write: Callable[[Buffer], object]) -> tuple[bool, set[str]]:
    """Write a value piece by piece: whether there are buffers behind the pickle, and the user's modules that it needs.

    A piece that is not `bytes` is a view of the value's memory.
    """
    buffers: list[memoryview] = []
    size = 0

    def count(data: Buffer) -> None:
        nonlocal size
        size += memoryview(data).nbytes
        write(data)

    def take(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not in one piece
            return True
        if view.nbytes < MAPPED_BYTES_MIN:
            return True
        buffers.append(view)
        return False

    modules = write_value(value, count, take=take)
    if not buffers:
        return False, modules
    pickled = size
    for view in buffers:
        count(bytes(-size % _PAGE))
        count(view)
    count(b"".join(_SIZE.pack(view.nbytes) for view in buffers) + _TAIL.pack(pickled, len(buffers), _MAGIC))
    return True, modules


def write_mapped_result(value: Any, write: Callable[[Buffer], object]) -> bool:
    """The same for the value of a task; says in an error which type it was."""
    try:
        return write_mapped(value, write)[0]
    except Exception as error:
        note_result(error, value)
        raise


def load_mapped(file: Any, *, writable: bool) -> Any:
    """The value of an open file. What is `writable` is changed in a private copy of the pages that are written to."""
    size = os.fstat(file.fileno()).st_size
    if size >= _TAIL.size:
        file.seek(size - _TAIL.size)
        if file.read(_TAIL.size).endswith(_MAGIC):
            return load_view(view_of(file, writable=writable))
    file.seek(0)
    return load_from(file)


def load_path(path: str | Path, *, writable: bool) -> Any:
    """The same from a path. Raises `OSError` when it is not there."""
    with Path(path).open("rb") as file:
        return load_mapped(file, writable=writable)


def load_view(view: memoryview) -> Any:
    """The value in this memory, which keeps it alive."""
    pickled, count, _ = _TAIL.unpack(view[-_TAIL.size :])
    index = view[-_TAIL.size - count * _SIZE.size :]
    at, buffers = pickled, []
    for number in range(count):
        (size,) = _SIZE.unpack_from(index, number * _SIZE.size)
        at += -at % _PAGE
        buffers.append(view[at : at + size])
        at += size
    return pickle.loads(view[:pickled], buffers=buffers)
