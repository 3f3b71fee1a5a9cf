"""What agent and slot say to each other: frames on the slot's standard input and output.

A frame is 4 bytes little-endian length of the rest, 1 byte kind, the payload. The pipes are private to the two: the slot
moves them away from descriptors 0 and 1 before any user code runs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from farmhand.model.messages import PROTOCOL
from farmhand.model.outcome import Mark
from farmhand.model.version import VERSION

HEAD: Final = struct.Struct("<IB")
PROGRESS: Final = struct.Struct("<qq")  # index that runs now (-1 for none), monotonic nanoseconds when it started
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024

OWN_VERSION: Final = (
    f"{VERSION} (protocol {PROTOCOL})".encode()
)  # both sides are of the same installation, or should be

# agent to slot
RUN: Final = 1
RETRACT: Final = 2  # give back what is not started, flush what is done
DROP: Final = 3  # payload: index, as text

# slot to agent
READY: Final = 11  # payload: the slot's version
RESULT: Final = 12
OUTPUT: Final = 13
RETRACTED: Final = 14  # payload: the batch's token and the first index given back, as text


class Run(msgspec.Struct, array_like=True):
    """In front of a work frame: what the agent adds to it."""

    dropped: tuple[int, ...] = ()
    files: tuple[tuple[int, str], ...] = ()  # large arguments by index; the agent removes them afterwards
    results: str = ""  # the path, but for the index, of a large result
    attempt: int = 1
    cpus: int = 1  # that were granted


def result_path(results: str, index: int) -> Path:
    """The file with a large result."""
    return Path(f"{results}-{index}")


class SlotResult(msgspec.Struct, array_like=True):
    """Header of a RESULT frame: indices `first` .. `first + count - 1` have ended; the body is as in a Report."""

    first: int
    count: int
    marks: tuple[Mark, ...]
    seconds: float
    cpu: float
    files: tuple[tuple[int, str, int], ...] = ()  # (index, path, bytes) of large results


class SlotOutput(msgspec.Struct, array_like=True):
    """Lines that the task at `index` printed. `raw`: taken by the agent from the descriptors, not by the slot."""

    index: int
    lines: tuple[tuple[int, str], ...]
    dropped: int = 0
    raw: bool = False


def frame(kind: int, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """One frame."""
    return b"".join((HEAD.pack(len(payload) + 1, kind), payload))


class Frames:
    """Cuts a stream of bytes into frames and hands each to `callback(kind, payload)`."""

    __slots__ = ("_buffer", "_callback")

    def __init__(self, callback: Callable[[int, bytes], None]) -> None:
        self._callback = callback
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """More bytes have come. Raises `ValueError` for a frame larger than FRAME_BYTES_MAX."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= HEAD.size:
            size, kind = HEAD.unpack_from(buffer, at)
            if size > FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {size} bytes")
            end = at + 4 + size
            if len(buffer) < end:
                break
            payload = bytes(memoryview(buffer)[at + HEAD.size : end])
            at = end
            self._callback(kind, payload)
        if at:
            del buffer[:at]
