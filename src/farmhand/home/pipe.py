"""The pipe between a process of ours and the one that keeps it alive: our standard input."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable


def first_line() -> str:
    """The first line of the standard input. Leaves when the input ends before it."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(1)
        line += byte
    return line.decode().strip()


def at_end_of_input(action: Callable[[], object]) -> None:
    """Call `action`, on a thread of its own, when the process at the other end of the standard input is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        action()

    threading.Thread(target=watch, name="farmhand-input", daemon=True).start()
