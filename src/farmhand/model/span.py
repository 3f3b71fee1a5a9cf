"""Spans of time as people write them."""

from __future__ import annotations

import math
import re
from typing import Final

from farmhand import errors

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w|)")


def parse_span(text: float | str) -> float:
    """Seconds in `90`, `"90"`, `"15m"`, `"12h"`, `"7d"`, `"2w"`. Raises `BadOption`."""
    if isinstance(text, str):
        match = _SPAN.fullmatch(text.strip())
        seconds = float(match.group(1)) * _UNITS[match.group(2)] if match else math.nan
    else:
        seconds = float(text) if type(text) in (int, float) else math.nan
    if not 0 < seconds < math.inf:
        raise errors.BadOption(f"{text!r} is no span of time; write seconds, or for example '15m', '12h', '7d'")
    return seconds


def say_span(seconds: float) -> str:
    """A span in the largest unit that leaves at least one of it."""
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:.3g}{unit}"
    return f"{seconds:.3g}s"
