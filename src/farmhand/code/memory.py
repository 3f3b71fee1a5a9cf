"""Files and fresh memory as one view, on a Python with mmap or without."""

from __future__ import annotations

from typing import Any


def view_of(file: Any, *, writable: bool) -> memoryview:
    """All of an open file. What is `writable` is changed in a private copy of the pages that are written to."""
    try:
        import mmap
    except ImportError:  # a small device: it is read
        file.seek(0)
        data = file.read()
        return memoryview(bytearray(data) if writable else data)
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY if writable else mmap.ACCESS_READ))


def fresh_view(size: int) -> memoryview:
    """So many bytes of memory. A map of its own costs no writing of zeros, and starts at a page."""
    try:
        import mmap
    except ImportError:
        return memoryview(bytearray(size))
    return memoryview(mmap.mmap(-1, size))
