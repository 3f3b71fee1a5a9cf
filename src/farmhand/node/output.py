"""What a task prints, taken line by line inside its slot, so that each line belongs to its task for certain."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable

from farmhand.model import limits

Send = Callable[[int, tuple[tuple[int, str], ...], int], None]


class Printer:
    """Collects lines of the current task and sends them; more than OUTPUT_LINES_PER_S are counted, not sent."""

    def __init__(self, send: Send) -> None:
        self.index = -1  # of the task that runs
        self.enabled = False
        self.partial = False  # a line without its end is waiting
        self._send = send
        self._streams = (_Stream(self, 1), _Stream(self, 2))
        self._budget = float(limits.OUTPUT_LINES_PER_S)
        self._filled_at = time.monotonic()
        self._dropped = 0

    def install(self) -> None:
        """Become `sys.stdout`, `sys.stderr` and the place where `logging` writes."""
        sys.stdout, sys.stderr = self._streams
        handler = logging.StreamHandler(self._streams[1])
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)

    def take(self, stream: int, lines: list[str]) -> None:
        """Whole lines have been printed."""
        now = time.monotonic()
        self._budget = min(limits.OUTPUT_LINES_PER_S, self._budget + (now - self._filled_at) * limits.OUTPUT_LINES_PER_S)
        self._filled_at = now
        allowed = lines[: int(self._budget)]
        self._budget -= len(allowed)
        self._dropped += len(lines) - len(allowed)
        if allowed:
            dropped, self._dropped = self._dropped, 0
            self._send(self.index, tuple((stream, line[: limits.OUTPUT_LINE_BYTES]) for line in allowed), dropped)

    def flush(self) -> None:
        """Send unfinished lines too: the task has ended."""
        for stream in self._streams:
            stream.finish()
        self.partial = False
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._send(self.index, (), dropped)


class _Stream(io.TextIOBase):
    """A text stream whose lines go to the printer."""

    def __init__(self, printer: Printer, number: int) -> None:
        self._printer = printer
        self._number = number
        self._rest = ""
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
        return self._number

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        *lines, rest = (self._rest + text).split("\n")
        self._rest = rest
        if len(rest) > limits.OUTPUT_LINE_BYTES:
            lines, self._rest = [*lines, rest], ""
        self._printer.partial = self._printer.partial or bool(self._rest)
        if lines:
            self._printer.take(self._number, lines)
        return len(text)

    def finish(self) -> None:
        """Send what has no newline."""
        if self._rest:
            rest, self._rest = self._rest, ""
            self._printer.take(self._number, [rest])

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
