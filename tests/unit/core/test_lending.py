"""A task that waits lends its place: who may start there, in which process, and what happens when it goes on."""

from __future__ import annotations

import pytest

from farmhand.core.holding import Drop, Finish, Holder, KillSlot, Pull, RefuseWait, Retract, Start, StartSpare
from farmhand.model import limits, messages
from farmhand.model.messages import Profile, Work
from farmhand.model.needs import Lane, Need
from farmhand.model.outcome import Kind, Mark

LANE, WIDE = Lane(), Lane((Need("cpus", "=", "2"),))
DEATH = Mark(0, Kind.CRASHED, "killed", None, 9)


class Node:
    def __init__(self, slots: int) -> None:
        self.holder = Holder(slots)
        self.sequence = 0
        self.holder.on_lanes([LANE, WIDE])
        for slot in range(slots):
            self.holder.on_slot_ready(slot, 0.0)

    def work(self, depth: int, count: int = 1, lane: Lane = LANE, now: float = 0.0) -> list[object]:
        self.sequence += 1
        work = Work(messages.PROTOCOL, "s", self.sequence, count, Profile("f"), depth=depth)
        return list(self.holder.on_message(lane.id, self.sequence, work, 0, now, None, wait=True))


def started(effects: list[object]) -> list[tuple[int, int]]:
    """(depth, slot) of what starts."""
    return [(effect.held.work.depth, effect.held.slots[0]) for effect in effects if isinstance(effect, Start)]


def spares(effects: list[object]) -> list[int]:
    return [effect.slot for effect in effects if isinstance(effect, StartSpare)]


def test_a_lent_place_is_used_by_a_spare_process() -> None:
    node = Node(1)
    assert started(node.work(0)) == [(0, 0)]
    asked = node.holder.on_waiting(0, 0.1)
    assert any(isinstance(effect, Pull) for effect in asked)
    assert spares(node.work(1)) == [1]
    assert started(list(node.holder.on_slot_ready(1, 0.2))) == [(1, 1)]
    assert node.holder.busy == 1


def test_what_is_not_deeper_than_the_lender_does_not_start() -> None:
    node = Node(1)
    node.work(0)
    node.holder.on_waiting(0, 0.1)
    assert not spares(node.work(0))
    assert spares(node.work(1)) == [1]  # although it came later
    assert started(list(node.holder.on_slot_ready(1, 0.2))) == [(1, 1)]
    assert node.holder.on_waiting(1, 0.3) is not None
    assert spares(node.work(2)) == [2]


def test_who_goes_on_does_so_at_once_and_nothing_else_starts() -> None:
    node = Node(1)
    node.work(0)
    node.holder.on_waiting(0, 0.1)
    node.work(1)
    node.holder.on_slot_ready(1, 0.2)
    node.holder.on_resumed(0)
    assert node.holder.busy == 2
    assert not started(node.work(1))
    assert not started(list(node.holder.on_reported(1, 1, 0.3)))  # the spare is free, the place is not
    assert started(list(node.holder.on_reported(0, 1, 0.4))) == [(1, 0)]


def test_the_rest_of_the_message_is_given_back() -> None:
    node = Node(1)
    node.work(0, count=3)
    assert Retract(0) in node.holder.on_waiting(0, 0.1)


def test_a_wide_task_lends_all_its_places() -> None:
    node = Node(2)
    assert started(node.work(0, lane=WIDE)) == [(0, 0)]
    node.holder.on_waiting(0, 0.1)
    assert started(node.work(1)) == [(1, 1)]  # the process that stood still
    assert spares(node.work(1)) == [2]


def test_the_death_of_a_spare_is_the_death_of_its_task_alone() -> None:
    node = Node(1)
    node.work(0)
    node.holder.on_waiting(0, 0.1)
    node.work(1)
    node.holder.on_slot_ready(1, 0.2)
    effects = list(node.holder.on_slot_lost(1, 0, DEATH, 0.3))
    (finish,) = [effect for effect in effects if isinstance(effect, Finish)]
    assert finish.marks[0].kind is Kind.CRASHED
    assert node.holder.idle == []
    assert spares(node.work(1)) == [1]


def test_the_death_of_a_waiter_frees_its_place_once() -> None:
    node = Node(1)
    node.work(0)
    node.holder.on_waiting(0, 0.1)
    node.work(1)
    node.holder.on_slot_ready(1, 0.2)
    node.holder.on_slot_lost(0, 0, DEATH, 0.3)
    node.holder.on_slot_ready(0, 0.4)
    assert not started(node.work(0))  # the spare runs in the only place
    assert started(list(node.holder.on_reported(1, 1, 0.5))) == [(0, 0)]


def test_idle_spares_go() -> None:
    node = Node(1)
    node.work(0)
    node.holder.on_waiting(0, 0.1)
    node.work(1)
    node.holder.on_slot_ready(1, 0.2)
    node.holder.on_resumed(0)
    node.holder.on_reported(1, 1, 0.3)
    assert not [e for e in node.holder.on_tick(1.0) if isinstance(e, KillSlot)]
    killed = [e for e in node.holder.on_tick(1.0 + limits.SPARE_KEEP_S) if isinstance(e, KillSlot)]
    assert killed == [KillSlot(1)]
    node.holder.on_slot_lost(1, -1, DEATH, 12.0)
    assert node.holder.lending.spares == {}


def test_so_many_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SPARES_MAX", 2)
    node = Node(1)
    node.work(0)
    node.holder.on_waiting(0, 0.1)
    for number in (1, 2):
        assert spares(node.work(number)) == [number]
        node.holder.on_slot_ready(number, 0.2)
        refused = node.holder.on_waiting(number, 0.3) == [RefuseWait(number)]
        assert refused == (number == 2)


def test_a_slot_that_runs_nothing_does_not_wait() -> None:
    node = Node(1)
    assert node.holder.on_waiting(0, 0.1) == []
    assert not [effect for effect in node.work(0) if isinstance(effect, Drop)]
