"""When a task that ended badly runs again."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from farmhand import errors
from farmhand.model import limits
from farmhand.model.outcome import Kind

CAUSES: Final = {
    "error": Kind.RAISED, "timeout": Kind.TIMED_OUT, "memory": Kind.OUT_OF_MEMORY, "crash": Kind.CRASHED,
    "environment": Kind.ENVIRONMENT,
}  # fmt: skip


class Retry(msgspec.Struct, frozen=True):
    """Up to `max` runs more, `delay` s apart, each pause `factor` times the last, for the causes in `on`.

    Losing a node is no cause: it is not the task's fault and always runs again.
    """

    max: int = 0
    delay: float = limits.RETRY_DELAY_S
    factor: float = 2.0
    delay_max: float = limits.RETRY_DELAY_MAX_S
    on: tuple[str, ...] = ("error", "timeout", "memory")

    def __post_init__(self) -> None:
        if self.max < 0 or not 0 <= self.delay < math.inf or not 1 <= self.factor < math.inf:
            raise errors.BadOption(f"retries={self!r}: max and delay cannot be negative, factor cannot be below 1")
        if unknown := set(self.on) - set(CAUSES):
            raise errors.BadOption(f"unknown cause of a retry {', '.join(sorted(unknown))}; one of {', '.join(CAUSES)}")

    def allows(self, kind: Kind, failures: int) -> bool:
        """Whether a task that has failed `failures` times before may run again after ending as `kind`."""
        return failures < self.max and any(CAUSES[cause] is kind for cause in self.on)

    def pause(self, failures: int, spread: float) -> float:
        """Seconds to wait after failure number `failures` (from 0). `spread` in 0..1 keeps many from returning at once."""
        try:
            pause = min(self.delay * self.factor**failures, self.delay_max)
        except OverflowError:
            pause = self.delay_max if self.delay else 0.0
        return pause * (0.75 + 0.5 * spread)
