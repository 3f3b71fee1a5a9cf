"""When this process stood still, as far as its own clock tells: its machine slept, or somebody stopped it.

What it decides: whether seconds have passed that nobody here had. Whoever has a timer looks at the clock now and then; when
much more time has passed than between two looks, the process stood still meanwhile. On Linux and macOS the clock itself stands
while the machine sleeps, so there is nothing to notice; on Windows, and after SIGSTOP, it has gone on.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from farmhand.model import limits

PAUSES_MAX: Final = 1000  # that are remembered


class Pauses:
    """Call `look` at least each STOPPED_S / 2."""

    def __init__(self, now: float) -> None:
        self._looked_at = now
        self._found: deque[tuple[float, float]] = deque(maxlen=PAUSES_MAX)  # when it went on, how long it stood still

    def look(self, now: float) -> float:
        """The seconds that it stood still before this moment, 0 when it did not."""
        late, self._looked_at = now - self._looked_at, now
        if late < limits.STOPPED_S:
            return 0.0
        self._found.append((now, late))
        return late

    def since(self, began: float, now: float) -> float:
        """The seconds since `began` that it stood still."""
        self.look(now)
        return sum(min(seconds, end - began) for end, seconds in self._found if end > began)
