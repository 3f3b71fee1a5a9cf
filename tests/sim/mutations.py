"""Faults put into the core on purpose. Each takes one safeguard away; the simulation has to notice every one of them.

A mutation patches one function for as long as its context lasts.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from farmhand.core import membership
from farmhand.core.family import Families, Taken
from farmhand.core.feeding import Feeding
from farmhand.core.holding import Ack, Held, HeldState, Holder
from farmhand.core.lending import Lending
from farmhand.core.membership import Membership
from farmhand.core.session import Session
from farmhand.core.tasks import Batch, Task, TaskState, Window
from farmhand.model.outcome import Kind, Mark
from farmhand.testing import steward as steward_module
from farmhand.testing.actor import TIMEOUT, Request
from farmhand.testing.steward import SimSteward


class Mutation(NamedTuple):
    """`owner.name` is replaced by `make(original)`; `takes_away` says what is missing then."""

    takes_away: str
    owner: Any
    name: str
    make: Callable[[Any], Any]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        original = vars(self.owner)[self.name]
        setattr(self.owner, self.name, self.make(original))
        try:
            yield
        finally:
            setattr(self.owner, self.name, original)


# ---- sessions


def no_dedupe(original: Any) -> Any:
    def finish(self: Session, batch: Batch, task: Task) -> None:
        index = task.index
        original(self, batch, task)
        batch.tasks[index] = task  # the next report on it counts again

    return finish


def no_token_fence(original: Any) -> Any:
    """A report of an older attempt is taken for one of the newest."""

    def on_report(self: Session, report: Any, now: float) -> Any:
        newest = [b for b in self.batches.values() if b.count == report.count]
        if report.token not in self.batches and newest:
            report.token = newest[-1].token
        return original(self, report, now)

    return on_report


def no_window(original: Any) -> Any:
    return lambda self: 1 if self.ready else 0


def no_careful_rerun(original: Any) -> Any:
    """Deaths are not counted."""

    def on_mark(self: Session, batch: Batch, task: Task, mark: Mark, *args: Any) -> Any:
        task.deaths = task.losses = 0
        return original(self, batch, task, mark, *args)

    return on_mark


def no_watchdog(original: Any) -> Any:
    def check_lanes(self: Session, now: float) -> Any:
        original(self, now)
        return []

    return check_lanes


def cancelled_comes_back(original: Any) -> Any:
    def take(self: Session, group: Any, slots: int) -> Any:
        for task in group.backlog:
            if task.state is TaskState.DONE:
                task.state = TaskState.WAITING
                group.waiting += 1
        return original(self, group, slots)

    return take


def no_wake_up(original: Any) -> Any:
    """A task whose pause is over is taken out of the heap and forgotten."""

    def on_tick(self: Session, now: float) -> Any:
        while self._backoff and self._backoff[0][0] <= now:
            heapq.heappop(self._backoff)
        return original(self, now)

    return on_tick


def stops_are_not_repeated(original: Any) -> Any:
    def repeat_stops(self: Session, now: float) -> Any:
        original(self, now)
        return []

    return repeat_stops


def killed_runs_again(original: Any) -> Any:
    """A task that is to be stopped is queued again when its attempt is lost."""

    def on_mark(self: Session, batch: Batch, task: Task, mark: Mark, *args: Any) -> Any:
        if mark.kind in (Kind.KILLED, Kind.RETURNED, Kind.LOST, Kind.CRASHED):
            task.killing = False
        return original(self, batch, task, mark, *args)

    return on_mark


# ---- nodes


def ack_before_store(original: Any) -> Any:
    def settle(self: Holder, held: Held) -> Any:
        if held.state is not HeldState.STORING:
            return []
        held.state = HeldState.GONE
        self.held.pop((held.lane, held.sequence), None)
        return [Ack(held)]

    return settle


def retract_forgets(original: Any) -> Any:
    """What a slot gave back is reported, and still waited for."""

    def on_retracted(self: Holder, slot: int, token: int, first: int, now: float) -> Any:
        held = self.by_slot.get(slot)
        effects = original(self, slot, token, first, now)
        if held is not None:
            held.end = held.work.count
        return effects

    return on_retracted


def all_are_blamed(original: Any) -> Any:
    def mark_of(self: Holder, held: Held, index: int, blamed: int, mark: Mark) -> Mark:
        return original(self, held, index, index, mark)  # type: ignore[no-any-return]

    return mark_of


def dying_slot_gets_work(original: Any) -> Any:
    def free(self: Holder, held: Held) -> None:
        self.idle += held.slots
        held.slots = []

    return free


def reserved_slot_is_let_go(original: Any) -> Any:
    def on_slot_ready(self: Holder, slot: int, now: float) -> Any:
        for held in self.by_slot.values():
            if slot in held.slots[1:]:
                held.slots.remove(slot)
        return original(self, slot, now)

    return on_slot_ready


# ---- tasks that submit


def shallow_may_start(original: Any) -> Any:
    return lambda self, held: True


def parents_fill_the_window(original: Any) -> Any:
    return lambda self, depth=0: original(self, 0)


def children_stay(original: Any) -> Any:
    """What a parent leaves goes on."""

    def collect(self: Families) -> Any:
        self._session.orphaned.clear()
        return Taken()

    return collect


def events_are_sent_once(original: Any) -> Any:
    """What is asked for again is not sent again."""

    def on_nested(self: Families, nested: Any) -> Any:
        nested.again = False
        return original(self, nested)

    return on_nested


# ---- the steward


def nothing_is_given_back(original: Any) -> Any:
    return lambda delivered, holdings, lane: []


def lost_may_return(original: Any) -> Any:
    def on_node_beat(self: Membership, beat: Any, now: float) -> Any:
        self._lost.pop(beat.incarnation, None)
        return original(self, beat, now)

    return on_node_beat


def delete_before_store(original: Any) -> Any:
    def give_back(self: SimSteward, sequence: int) -> Any:
        message = yield Request(self.world.engine.message_at, (sequence,))
        if message is TIMEOUT or message is None:
            return message is None
        yield Request(self.world.engine.delete, (sequence,))
        yield from self.store_loss(message)
        return True

    return give_back


def announced_once(original: Any) -> Any:
    def on_tick(self: Membership, now: float) -> Any:
        self._announced_at = now
        return original(self, now)

    return on_tick


# ---- inputs


def nobody_waits_for_inputs(original: Any) -> Any:
    """A task goes to the backlog at once."""

    def admit(self: Feeding, task: Task) -> bool:
        original(self, task)
        if task.state is TaskState.BLOCKED:
            del self.blocked[task]
            task.state = TaskState.WAITING
        return task.state is TaskState.WAITING

    return admit


def nobody_is_told_of_values(original: Any) -> Any:
    def on_value(self: Feeding, source: Task) -> list[Task]:
        original(self, source)
        return []

    return on_value


def nobody_is_told_of_failures(original: Any) -> Any:
    return lambda self, source: None


def back_without_its_input(original: Any) -> Any:
    """A task that is to run again does not ask whether its input is."""

    def on_back(self: Feeding, task: Task) -> bool:
        task.to(TaskState.WAITING)
        return True

    return on_back


MUTATIONS: Final = (
    Mutation("that a task waits for its inputs", Feeding, "admit", nobody_waits_for_inputs),
    Mutation("that a value frees who waits for it", Feeding, "on_value", nobody_is_told_of_values),
    Mutation("that a failed input ends who waits for it", Feeding, "on_no_value", nobody_is_told_of_failures),
    Mutation("that a task waits again for its input", Feeding, "on_back", back_without_its_input),
    Mutation("the dedupe of outcomes", Session, "_finish", no_dedupe),
    Mutation("the fence of tokens", Session, "on_report", no_token_fence),
    Mutation("the window's bound", Window, "room", no_window),
    Mutation("the counting of deaths", Session, "_on_mark", no_careful_rerun),
    Mutation("the watchdog", Session, "_check_lanes", no_watchdog),
    Mutation("that a cancelled task stays cancelled", Session, "_take", cancelled_comes_back),
    Mutation("the end of a back-off", Session, "on_tick", no_wake_up),
    Mutation("that an order to stop is repeated", Session, "_repeat_stops", stops_are_not_repeated),
    Mutation("that a task to be stopped does not run again", Session, "_on_mark", killed_runs_again),
    Mutation("that an acknowledgement waits for the reports", Holder, "_settle", ack_before_store),
    Mutation("the bookkeeping of what was given back", Holder, "on_retracted", retract_forgets),
    Mutation("that only the running task is blamed", Holder, "_mark", all_are_blamed),
    Mutation("that a dying slot gets no work", Holder, "_free", dying_slot_gets_work),
    Mutation("that a reserved slot comes back reserved", Holder, "on_slot_ready", reserved_slot_is_let_go),
    Mutation("that deeper work goes first", Lending, "deep_enough", shallow_may_start),
    Mutation("that waiting parents do not fill the window", Window, "under_way", parents_fill_the_window),
    Mutation("that children end with their parent", Families, "collect", children_stay),
    Mutation("that events are sent again", Families, "on_nested", events_are_sent_once),
    Mutation("the giving back after a node's loss", steward_module.membership, "orphans", nothing_is_given_back),
    Mutation("that a lost incarnation is refused", Membership, "on_node_beat", lost_may_return),
    Mutation("that a loss is stored before the work is removed", SimSteward, "give_back", delete_before_store),
    Mutation("that the table of lanes is announced again", Membership, "on_tick", announced_once),
)
assert steward_module.membership is membership
