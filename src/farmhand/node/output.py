"""What a task prints, taken line by line inside its slot, so that each line belongs to its task for certain."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from farmhand.model import limits

_FORMATTER: Final = logging.Formatter("%(levelname)s %(name)s: %(message)s")
_LINES_A_FRAME: Final = 64  # of OUTPUT_LINE_BYTES at most: a message stays well below what the engine takes

Send = Callable[[int, tuple[tuple[int, str], ...], int], None]


class Budget:
    """How many lines may go on: OUTPUT_LINES_PER_S; those above are counted."""

    def __init__(self) -> None:
        self.dropped = 0
        self._left = float(limits.OUTPUT_LINES_PER_S)
        self._filled_at = time.monotonic()

    def take(self, lines: list[str]) -> tuple[list[str], int]:
        """The lines that may go on now, and how many were dropped before them."""
        now = time.monotonic()
        self._left = min(limits.OUTPUT_LINES_PER_S, self._left + (now - self._filled_at) * limits.OUTPUT_LINES_PER_S)
        self._filled_at = now
        allowed = lines[: int(self._left)]
        self._left -= len(allowed)
        dropped = self.take_dropped() if allowed else 0
        self.dropped += len(lines) - len(allowed)
        return allowed, dropped

    def take_dropped(self) -> int:
        """The number of dropped lines that nobody has been told of; from now on somebody has."""
        dropped, self.dropped = self.dropped, 0
        return dropped


class Printer:
    """Collects lines of the current task and sends them, within a budget. Any thread of a task may print."""

    def __init__(self, send: Send) -> None:
        self.index = -1  # of the task that runs
        self.unsent = False  # a line without its end is waiting, or the number of those that were dropped
        self._send = send
        self._streams = (_Stream(self, 1), _Stream(self, 2))
        self._budget = Budget()
        self._lock = threading.RLock()  # a signal handler may print while its thread prints

    def install(self) -> None:
        """Become `sys.stdout`, `sys.stderr` and so the place where `logging` writes. Again when a task has replaced them."""
        if sys.stdout is not self._streams[0] or sys.stderr is not self._streams[1]:
            sys.stdout, sys.stderr = self._streams
        if logging.lastResort is not None:
            logging.lastResort.setFormatter(_FORMATTER)  # of tasks that have not set logging up themselves

    def take(self, stream: int, lines: list[str]) -> None:
        """Whole lines have been printed."""
        allowed, dropped = self._budget.take(lines)
        for at in range(0, len(allowed), _LINES_A_FRAME):
            frame = tuple((stream, line[: limits.OUTPUT_LINE_BYTES]) for line in allowed[at : at + _LINES_A_FRAME])
            self._send(self.index, frame, dropped)
            dropped = 0
        self.unsent = self.unsent or self._budget.dropped > 0

    def flush(self) -> None:
        """Send unfinished lines too: the task has ended."""
        with self._lock:
            self.unsent = False
            for stream in self._streams:
                stream.finish()
            if dropped := self._budget.take_dropped():
                self._send(self.index, (), dropped)

    def write(self, stream: _Stream, text: str) -> None:
        """A piece of text has been printed."""
        with self._lock:
            *lines, rest = (stream.rest + text).split("\n")
            if len(rest) > limits.OUTPUT_LINE_BYTES:
                lines, rest = [*lines, rest], ""
            stream.rest = rest
            self.unsent = self.unsent or bool(rest)
            if lines:
                self.take(stream.number, lines)


class _Stream(io.TextIOBase):
    """A text stream whose lines go to the printer."""

    def __init__(self, printer: Printer, number: int) -> None:
        self._printer = printer
        self.number = number
        self.rest = ""  # printed, and not yet a whole line
        self._raw = _Raw(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._printer.write(self, text)
        return len(text)

    def finish(self) -> None:
        """Send what has no newline."""
        if self.rest:
            rest, self.rest = self.rest, ""
            self._printer.take(self.number, [rest])

    @property
    def buffer(self) -> io.RawIOBase:
        """Where bytes are written by code that bypasses the text layer."""
        return self._raw


class _Raw(io.RawIOBase):
    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._stream.write(bytes(data).decode("utf-8", errors="replace"))
        return len(data)
