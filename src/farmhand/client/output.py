"""What tasks print, on the submitter's own terminal: line by line, each with the name of its task and node."""

from __future__ import annotations

import os
import sys

from farmhand.engine.wire import Msg
from farmhand.model import messages


class OutputPrinter:
    """Writes to `sys.stdout` and `sys.stderr` as they are at that moment. `$FARMHAND_OUTPUT` = plain leaves the label out."""

    def __init__(self) -> None:
        self._plain = os.environ.get("FARMHAND_OUTPUT") == "plain"

    def on_message(self, msg: Msg) -> None:
        """Lines of one task have come."""
        output = messages.read_output(msg.data)
        label = "" if self._plain else f"[{output.name or 'task'} {output.node}/{output.slot}] "
        for number, text in output.lines:
            self._write(number, f"{label}{text}\n")
        if output.dropped:
            self._write(2, f"{label}... {output.dropped} more lines were left out\n")

    @staticmethod
    def _write(number: int, text: str) -> None:
        stream = sys.stderr if number == 2 else sys.stdout
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # a closed terminal must not stop the session
