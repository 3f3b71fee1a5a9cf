"""How one execution of a task ended, as the node saw it. What follows from it is decided in `core.session`."""

from __future__ import annotations

import enum
from typing import Final

import msgspec


class Kind(enum.IntEnum):
    """What a node or the steward reports about one task of a batch."""

    SUCCEEDED = 0  # the body has its value
    RAISED = 1  # the call raised; the body has the exception
    CRASHED = 2  # the slot died under it: exit code or signal in the detail
    TIMED_OUT = 3  # ran longer than its timeout; the slot was killed
    OUT_OF_MEMORY = 4  # used more than it said it needs; the slot was killed
    KILLED = 5  # stopped on the session's wish
    RETURNED = 6  # handed back without having been started
    LOST = 7  # the node is gone
    REFUSED = 8  # could not be started: code or data missing, initializer failed
    INITIALIZER = 9  # the session's initializer raised in that slot
    CANCELLED = 10  # withdrawn before it ran; only in the records of named sessions
    ENVIRONMENT = 11  # its environment could not be built on that node, or its Python does not run


STOPPED: Final = (Kind.CANCELLED, Kind.KILLED)  # somebody wanted that


class Mark(msgspec.Struct, array_like=True, gc=False):
    """A task of a batch that did not succeed. `index` counts from 0 within the batch."""

    index: int
    kind: Kind
    text: str = ""  # one line for people
    exit_code: int | None = None
    signal: int | None = None
    tail: tuple[str, ...] = ()  # the last lines it printed
    peak_memory: int = 0  # bytes, of the slot


class BlobRef(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A value that travels beside its message: in the engine's chunks, or as a file both sides can open."""

    index: int
    id: str
    size: int
    path: str = ""  # set when every node of the farm shares this machine's memory file system
