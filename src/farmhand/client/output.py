"""What tasks print, on a terminal: line by line, each with the name of its task and node."""

from __future__ import annotations

import os
import sys

from farmhand.engine.wire import Msg
from farmhand.model import messages
from farmhand.model.messages import Output


def plain_wanted() -> bool:
    """Whether the environment asks for lines without labels."""
    return os.environ.get("FARMHAND_OUTPUT") == "plain"


def label_of(output: Output, session: str = "") -> str:
    """Whose lines these are: the task's name, its number (with the session, if that is given), its node and slot."""
    number = f" {session}{'/' if session else '#'}{output.number}" if output.number else ""
    return f"[{output.name or 'task'}{number} {output.node}/{output.slot}] "


def left_out(output: Output) -> str:
    """What is said of lines above the limit."""
    return f"... {output.dropped} more lines were left out"


class OutputPrinter:
    """Writes to `sys.stdout` and `sys.stderr` as they are at that moment. `$FARMHAND_OUTPUT` = plain leaves the label out."""

    def __init__(self) -> None:
        self._plain = plain_wanted()
        self._seen: dict[str, int] = {}  # the last message of each node's incarnation

    def on_message(self, msg: Msg) -> None:
        """Lines of one task have come. A node that was cut off sends again what may have been here already."""
        incarnation, _, count = msg.header("Nats-Msg-Id").partition(".")
        if count.isdecimal():
            if int(count) <= self._seen.get(incarnation, 0):
                return
            self._seen[incarnation] = int(count)
        output = messages.read_output(msg.data)
        label = "" if self._plain else label_of(output)
        for number, text in output.lines:
            self._write(number, f"{label}{text}\n")
        if output.dropped:
            self._write(2, f"{label}{left_out(output)}\n")

    @staticmethod
    def _write(number: int, text: str) -> None:
        stream = sys.stderr if number == 2 else sys.stdout
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # a closed terminal must not stop the session
