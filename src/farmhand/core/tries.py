"""How often tasks of a named session have failed that run again: records say it, so that each life counts on."""

from __future__ import annotations

from collections.abc import Iterable

from farmhand.core.tasks import Task, TaskState
from farmhand.model.messages import Report
from farmhand.model.named import Place, Tried
from farmhand.model.outcome import Kind

Setbacks = tuple[int, int, int]


class Tries:
    """What earlier lives have left. Nothing is asked of it once all that was there has been read, and loaded."""

    def __init__(self) -> None:
        self._tried: dict[Place, Tried] = {}  # in earlier lives
        self._marked: dict[
            Place, dict[int, Kind]
        ] = {}  # by reports that nobody has read; by the sequence of their work
        self._failed: list[Tried] = []  # in attempts whose reports are there, and which no record speaks of

    def on_settled(self, tried: Iterable[Tried]) -> None:
        """A record says this. Records may overtake each other."""
        for one in tried:
            if not self.is_counted(place := (one.block, one.index), one.sequence):
                self._tried[place] = one

    def is_counted(self, place: Place, sequence: int) -> bool:
        """Whether the attempt of the work at `sequence` is one that this task is known to have failed in."""
        tried = self._tried.get(place)
        return tried is not None and sequence <= tried.sequence

    def on_mark(self, place: Place, sequence: int, kind: Kind) -> None:
        """So a task has ended in the attempt of the work at `sequence`, which is not counted; nobody has read that report."""
        self._marked.setdefault(place, {}).setdefault(sequence, kind)

    def recall(self, task: Task, last: int) -> None:
        """Count what went wrong in attempts before that of the work at sequence `last`."""
        place: Place = task.cargo.place
        if (tried := self._tried.pop(place, None)) is not None:
            task.attempts, task.failures = tried.attempts, tried.failures
            task.deaths, task.losses = tried.deaths, tried.losses
        for sequence, kind in sorted(self._marked.get(place, {}).items()):
            if sequence >= last:
                continue  # it will be read
            before = task.setbacks
            task.attempts += 1
            task.failures += task.group.retry.allows(kind, -1)
            task.deaths += kind is Kind.CRASHED
            task.losses += kind is Kind.LOST
            if task.setbacks != before:  # it was not only handed back
                self._failed.append(_tried(task, sequence))
        task.careful = task.deaths + task.losses > 0

    def start(self) -> tuple[Tried, ...]:
        """Everything that was there at the beginning has been read. Returns what is to be stored of it."""
        self._marked.clear()
        return tuple(self._failed)


def tried_in(report: Report, before: Iterable[tuple[Task, Setbacks]]) -> tuple[Tried, ...]:
    """What this report has counted against tasks that have no outcome by it; `before`: what was counted until then.

    One that fell with an input has none yet either: a life to come may give that input another end.
    """
    return tuple(
        _tried(task, report.sequence)
        for task, setbacks in before
        if task.setbacks != setbacks
        and (task.state is not TaskState.DONE or (task.links is not None and task.links.unfed is not None))
    )


def _tried(task: Task, sequence: int) -> Tried:
    block, index = task.cargo.place
    return Tried(block, index, sequence, task.attempts, task.failures, task.deaths, task.losses)
