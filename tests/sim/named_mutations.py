"""Faults put into `core.named` on purpose, as those of `mutations`: each takes one safeguard of named sessions away."""

from __future__ import annotations

from typing import Any, Final

from tests.sim.mutations import Mutation

from farmhand.core.copies import Copies
from farmhand.core.feeding import Feeding
from farmhand.core.named import NamedSession, _Block
from farmhand.core.settling import Store
from farmhand.core.supply import Supply
from farmhand.core.tasks import Task, TaskState
from farmhand.core.tries import Tries
from farmhand.model.named import Settled


def nothing(_original: Any) -> Any:
    return lambda self, *args: None


def claimed_may_be_parked(_original: Any) -> Any:
    return lambda self, sequence, count: False


def no_adoption(original: Any) -> Any:
    def start(self: NamedSession, now: float) -> Any:
        for claim in self._claimed.values():
            if claim.group is not None:  # sent again instead
                self.core.on_submitted(claim.group, [task for task in claim.tasks if task is not None])
        self._claimed.clear()
        return original(self, now)

    return start


def same_tokens(original: Any) -> Any:
    def init(self: NamedSession, _secret: bytes, last: Settled | None = None) -> None:
        original(self, b"same", last)

    return init


def over_when_decided(_original: Any) -> Any:
    return property(lambda self: 0 < self.count == self.done.bit_count())


def order_is_lost(original: Any) -> Any:
    def settle(self: NamedSession, decided: Any, report: Any = None, tried: Any = ()) -> Any:
        effects = original(self, decided, report, tried)
        for effect in effects:
            if isinstance(effect, Store):
                effect.positions.reverse()
        return effects

    return settle


def stop_is_not_stored(original: Any) -> Any:
    def stop(self: NamedSession, places: Any, *, kill: bool) -> Any:
        ended, effects = original(self, places, kill=kill)
        return ended, [effect for effect in effects if not isinstance(effect, Store)]

    return stop


def records_are_forgotten(original: Any) -> Any:
    def on_settled(self: NamedSession, settled: Settled, size: int, record: int) -> None:
        if self._opened:
            original(self, settled, size, record)

    return on_settled


def low_is_too_high(original: Any) -> Any:
    def stamp(self: NamedSession, settled: Settled) -> Settled:
        stamped: Settled = original(self, settled)
        stamped.low = self.read_to + 1
        return stamped

    return stamp


def totals_are_not_carried(original: Any) -> Any:
    def stamp(self: NamedSession, settled: Settled) -> Settled:
        stamped: Settled = original(self, settled)
        stamped.done = 0
        return stamped

    return stamp


def done_is_not_noted(original: Any) -> Any:
    def close(self: NamedSession, task: Any, *kind: Any) -> None:
        original(self, task, *kind)
        sequence, index = task.cargo.place
        self._blocks[sequence].done &= ~(1 << index)

    return close


def blocks_are_read_again(original: Any) -> Any:
    def on_fetched(self: NamedSession, sequence: int, block: Any, entries: Any) -> None:
        done, self._blocks[sequence].done = self._blocks[sequence].done, 0
        original(self, sequence, block, entries)
        self._blocks[sequence].done |= done

    return on_fetched


def failures_are_forgotten(original: Any) -> Any:
    def settle(self: NamedSession, decided: Any, report: Any = None, tried: Any = ()) -> Any:
        return original(self, decided, report)

    return settle


def earlier_reports_are_not_counted(original: Any) -> Any:
    def recall(self: Tries, task: Any, last: int) -> None:
        self._marked.pop(task.cargo.place, None)
        original(self, task, last)

    return recall


def failures_count_twice(_original: Any) -> Any:
    return lambda self, place, sequence: False


def no_copy(_original: Any) -> Any:
    return lambda self, name, sequence: False


def nothing_is_missing(_original: Any) -> Any:
    return lambda self, after: range(0)


def nobody_is_handed_on(original: Any) -> Any:
    def link(self: Supply, task: Task, *args: Any) -> None:
        self._stubs.pop(task.cargo.place, None)
        original(self, task, *args)

    return link


def falls_alone(_original: Any) -> Any:
    def admit(self: Feeding, task: Task) -> bool:
        self.link(task)
        if task.links is not None and task.links.unfed is not None:
            self._end(task)
        elif task.links is not None and task.links.waits:
            self._block(task)
        return task.state is TaskState.WAITING

    return admit


NAMED_MUTATIONS: Final = (
    Mutation("that failures are stored", NamedSession, "settle", failures_are_forgotten),
    Mutation("the count of failures in earlier attempts", Tries, "recall", earlier_reports_are_not_counted),
    Mutation("that a failure counts once", Tries, "is_counted", failures_count_twice),
    Mutation("that a second copy of a block is known", Copies, "is_copy", no_copy),
    Mutation("the look for copies before what was read", Copies, "missing", nothing_is_missing),
    Mutation("the claim of work that is out", NamedSession, "claim_work", nothing),
    Mutation("the claim of reports that nobody has read", NamedSession, "claim_report", nothing),
    Mutation("that a claimed block is never parked", NamedSession, "_is_claimed", claimed_may_be_parked),
    Mutation("the taking over of batches", NamedSession, "start", no_adoption),
    Mutation("that each life has tokens of its own", NamedSession, "__init__", same_tokens),
    Mutation("that only what is stored is over", _Block, "over", over_when_decided),
    Mutation("the order of values in a record", NamedSession, "settle", order_is_lost),
    Mutation("that a stop is stored", NamedSession, "stop", stop_is_not_stored),
    Mutation("the reading of old records", NamedSession, "on_settled", records_are_forgotten),
    Mutation("that low stays below what is open", NamedSession, "stamp", low_is_too_high),
    Mutation("the totals of what is below", NamedSession, "stamp", totals_are_not_carried),
    Mutation("the note that a task has its outcome", NamedSession, "_close", done_is_not_noted),
    Mutation("that a block is asked for again", NamedSession, "on_not_fetched", nothing),
    Mutation("that a withdrawn task of a parked block stays so", NamedSession, "on_fetched", blocks_are_read_again),
    Mutation("that it is noted where values are", Supply, "note", nothing),
    Mutation("the search for inputs of earlier lives", Supply, "seeks", lambda _: lambda self: []),
    Mutation("that who waits for a parked task waits for it still", Supply, "link", nobody_is_handed_on),
    Mutation("that a parked input may be withdrawn", Supply, "on_withdrawn", nothing),
    Mutation("that what waits falls with what comes and falls", Feeding, "admit", falls_alone),
    Mutation(
        "that an input's end is stored before what follows", NamedSession, "_is_stored", lambda _: lambda *_: True
    ),
    Mutation("that values are kept while a block needs them", Supply, "expect", nothing),
)
