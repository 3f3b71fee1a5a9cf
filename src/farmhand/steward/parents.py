"""Tasks of a named session that submit: the caretaker hands out their children, as a client does in other sessions."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from farmhand import errors
from farmhand.core import session
from farmhand.core.family import Child
from farmhand.engine import blobs
from farmhand.engine.children import Children
from farmhand.model.messages import Report
from farmhand.model.needs import Lane
from farmhand.model.outcome import BlobRef

if TYPE_CHECKING:
    from farmhand.steward.care import Care
    from farmhand.steward.named import Kept


class Parents:
    """See `engine.children.Driving`."""

    def __init__(self, kept: Kept, care: Care) -> None:
        self.core: session.Session = kept.core.core
        # Other than those of the session's own tasks, and than those of an earlier life: logs are found by them.
        self.numbers: Iterator[int] = itertools.count(int(time.time() * 1e6))
        self._kept = kept
        self._care = care
        self._children = Children(self, care.connection, kept.id, contextlib.nullcontext())
        self.close = self._children.close
        self.collect = self._children.collect
        self.flush = self._children.flush

    def carry_out(self, effects: list[session.Effect], _body: Any) -> None:
        """Do what the core decided."""
        self._kept.carry_out(effects)

    def need_lane(self, lane: Lane) -> None:
        """Tasks wait for this lane."""
        self._kept.need_lane(lane)

    def pump(self) -> None:
        """Send what there is room for."""
        self._kept.go_on()

    def code_is_stored(self, hashes: list[str]) -> None:
        """The caretaker stores no code."""

    def forget_blob(self, ref: BlobRef) -> None:
        """A large argument or result of a child is not needed any more."""
        self._care.spawn(self._remove(ref))

    async def _remove(self, ref: BlobRef) -> None:
        with contextlib.suppress(errors.EngineError, TimeoutError):  # it goes with the session
            await blobs.remove(self._care.connection, self._kept.id, ref.id)

    def discard(self, report: Report) -> None:
        """Remove what came for nobody: of a child whose parent has ended, or runs again."""
        if not report.origin and report.token not in self.core.batches:
            for ref in report.blobs:
                self.forget_blob(ref)

    def on_ended(self, effect: session.Delivered | session.Ended, entries: list[Any], refs: dict[int, BlobRef]) -> None:
        """Children have ended."""
        if isinstance(effect, session.Ended):
            self._children.on_end(effect, entries)
            return
        for task, position in effect.values:
            child: Child = task.cargo
            ref = refs.get(task.index)
            self._children.on_value(child, entries[position] if ref is None and position < len(entries) else None, ref)
