"""The slot's end of tasks that submit: what the running call may say to its agent, and who hears the answer.

`farmhand.client.current` makes an Executor of it, in this process and only when a task asks for one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from farmhand.model.messages import Work
from farmhand.node import slotwire

_encode = msgspec.msgpack.Encoder().encode
_read_told = msgspec.msgpack.Decoder(slotwire.Told).decode


class Listener(Protocol):
    """Who has submitted something. Called on the slot's reader thread, but for `on_end`."""

    index: int

    def on_told(self, told: slotwire.Told) -> None:
        """Something happened to its children."""

    def on_refused(self) -> None:
        """It may not wait: too many do."""

    def on_end(self) -> None:
        """Its task has ended; on the thread that ran it."""


class Door:
    """One for each slot process. The main thread says which call runs; `listener` is there when it has asked for a farm."""

    def __init__(self, send: Callable[[int, bytes], None], bundles: Path) -> None:
        self._send = send
        self.bundles = bundles  # the folder of the user's modules
        self.work: Work | None = None
        self.results = ""  # the path, but for its end, of files of this run
        self.index = -1
        self.listener: Listener | None = None

    def begin(self, work: Work, results: str) -> None:
        """A batch starts."""
        self.work, self.results = work, results

    def end(self) -> None:
        """The call at `index` has ended."""
        if self.listener is not None:
            self.listener.on_end()
            self.listener = None

    def say(self, said: slotwire.Said) -> None:
        """Words of the running call, from any thread."""
        self._send(slotwire.SAY, _encode(said))

    def wait(self, index: int, *, waits: bool) -> None:
        """The running call waits for its children, or goes on."""
        self._send(slotwire.WAIT, b"%d %d" % (index, waits))

    def on_frame(self, kind: int, payload: bytes) -> None:
        """The agent answers."""
        listener = self.listener
        if listener is None:
            return
        if kind == slotwire.REFUSED_WAIT:
            listener.on_refused()
            return
        told = _read_told(payload)
        if told.index == listener.index:
            listener.on_told(told)


here: Any = None  # the Door of this process, when it is a slot
