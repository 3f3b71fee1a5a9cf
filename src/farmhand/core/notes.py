"""What is remembered of things that are gone or have not come yet: for late words about them, and bounded."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

NOTES_MAX: Final = 10_000  # lost incarnations, ended sessions, orders that came before their work; the oldest go first


def forget_oldest(notes: OrderedDict[Any, Any]) -> None:
    """Keep the newest NOTES_MAX."""
    while len(notes) > NOTES_MAX:
        notes.popitem(last=False)
