"""Records of a named session's outcomes, in the making."""

from __future__ import annotations

import msgspec

from farmhand.core.feeding import Unfed
from farmhand.core.session import Ended
from farmhand.core.supply import Cargo
from farmhand.core.tasks import Task
from farmhand.model import messages
from farmhand.model.messages import Report
from farmhand.model.named import Place, Settled, Tried, runs_of
from farmhand.model.outcome import BlobRef, Kind, Mark


class Store(msgspec.Struct):
    """Store this record, and say `on_settled`. Its body are the entries of the report's body at `positions`, in that order.

    wanted: values in it that other tasks wait for: whose, the position, and where it is when it is large.
    """

    settled: Settled
    positions: list[int]
    ended: list[Ended] = []  # of the tasks among them that did not succeed
    wanted: list[tuple[Place, int, BlobRef | None]] = []


class Outcomes:
    """A record in the making."""

    def __init__(self, report: Report | None) -> None:
        self.places: list[Place] = []
        self._report = report
        self._refs = {ref.index: ref for ref in report.blobs} if report is not None else {}
        self._positions: list[int] = []
        self._marks: list[Mark] = []
        self._attempts: list[int] = []
        self._ended: list[Ended] = []
        self._blobs: list[BlobRef] = []
        self._causes: list[tuple[int, int, int]] = []
        self._wanted: list[tuple[Place, int, BlobRef | None]] = []

    def add_value(self, task: Task, position: int) -> None:
        """A task has succeeded."""
        if (ref := self._refs.get(task.index)) is not None:
            self._blobs.append(msgspec.structs.replace(ref, index=len(self.places), path=""))
        if task.cargo.wanted:
            self._wanted.append((task.cargo.place, position, ref))
        self.places.append(task.cargo.place)
        self._positions.append(position)

    def add_end(self, ended: Ended) -> None:
        """A task has ended otherwise."""
        self._mark(ended.task, ended.mark)
        self._ended.append(ended)
        if ended.position >= 0:
            self._positions.append(ended.position)

    def add_unfed(self, unfed: Unfed) -> Kind:
        """A task has ended because of an input. Returns how."""
        cause: Cargo = unfed.cause.cargo
        kind = Kind.CANCELLED if cause.kind is Kind.CANCELLED else Kind.REFUSED
        name = unfed.cause.group.profile.name or "task"
        why = "is not in this session" if cause.kind is Kind.LOST else "failed"
        if kind is Kind.REFUSED and cause.kind is not Kind.LOST:
            self._causes.append((len(self.places), *cause.place))
        text = f"did not run, because its input {name!r} {why}" if kind is Kind.REFUSED else ""
        self._mark(unfed.task, Mark(0, kind, text))
        return kind

    def _mark(self, task: Task, mark: Mark) -> None:
        self._marks.append(msgspec.structs.replace(mark, index=len(self.places)))
        self._attempts.append(task.attempts)
        self.places.append(task.cargo.place)

    def record(self, tried: tuple[Tried, ...] = ()) -> Store:
        """All of it, and how often tasks have failed that have no outcome."""
        node, slot = (self._report.node, self._report.slot) if self._report is not None else ("", -1)
        settled = Settled(
            messages.PROTOCOL, runs_of(self.places), tuple(self._marks), node, slot, tuple(self._blobs), tuple(self._attempts),
            tried=tried, causes=tuple(self._causes),
        )  # fmt: skip
        return Store(settled, self._positions, self._ended, self._wanted)
