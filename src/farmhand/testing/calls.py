"""The tasks that are submitted in the simulated world, and what really happened to them.

A call's fate is what its code does each time that it runs: `ok`, `raise`, `crash` (its slot dies), `doom` (its node dies) or
`hang`. The last fate repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from farmhand.core.family import Child

OK: Final = "ok"
RAISE: Final = "raise"
CRASH: Final = "crash"
DOOM: Final = "doom"
HANG: Final = "hang"


class Made(NamedTuple):
    """A value: which run of which call gave it, and which values that run got."""

    call: Call
    run: int
    got: tuple[Any, ...] = ()


class Call:
    """One call of a session. `outcome` is what its future would show; effects are counted when it runs."""

    __slots__ = (
        "blamable", "brood", "fates", "group", "inputs", "number", "outcome", "picks", "runs", "seconds", "session", "size",
        "task", "value", "waits",
    )  # fmt: skip

    def __init__(self, session: str, number: int, fates: tuple[str, ...], seconds: float, size: int) -> None:
        self.session = session
        self.number = number
        self.fates = fates
        self.seconds = seconds
        self.size = size
        self.group = 0
        self.outcome: str | None = None
        self.runs = 0  # effects
        self.blamable = 0  # attempts that were lost, or that really died under it
        self.task: Any = None
        self.brood: Callable[[], list[Call]] | None = None  # what it submits, new each time that it runs
        self.waits = True  # for these
        self.picks: tuple[int, ...] = ()  # how far back among the session's calls its inputs are
        self.inputs: list[Call] = []
        self.value: Made | None = None  # of its outcome

    def next_fate(self) -> str:
        """What this run's code does."""
        fate = self.fates[min(self.runs, len(self.fates) - 1)]
        self.runs += 1
        return fate

    def __repr__(self) -> str:
        return f"{self.session}.{self.number}"


def call_of(task: Any) -> Any:
    """The call of a task; None for none."""
    if task is None:
        return None
    return task.cargo._entry if isinstance(task.cargo, Child) else task.cargo
