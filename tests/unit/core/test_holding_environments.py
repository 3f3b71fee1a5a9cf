"""Which message a slot gets when it would have to change its environment."""

from __future__ import annotations

from typing import Any

from tests.unit.core.effects import Effects
from tests.unit.core.test_holding import DEATH, NARROW, URGENT, WIDE, Node, kinds

from farmhand.core.holding import Ack, Finish, Held, Start
from farmhand.model import limits
from farmhand.model.outcome import Kind, Mark

UNFIT = Mark(0, Kind.ENVIRONMENT, "its Python does not run")


def finish(node: Node, held: Held, now: float = 0.0) -> list[Held]:
    """A message ends; what starts in its place."""
    slot = held.slots[0]
    node.tell(node.holder.on_reported(slot, held.work.count, now))
    started = [effect.held for effect in node.seen.take_all(Start)]
    node.tell(node.holder.on_stored(held))
    assert node.seen.take(Ack).held is held
    return started


def two_dressed(seen: Effects, **more: Any) -> tuple[Node, Held, Held]:
    """Two busy slots, in the environments a and b."""
    node = Node(seen, slots=2, **more)
    return node, node.started(environment="a"), node.started(environment="b")


def test_a_message_goes_to_the_slot_that_fits(seen: Effects) -> None:
    node, a, b = two_dressed(seen)
    finish(node, a)
    finish(node, b)
    assert node.started(environment="b").slots == [1]
    assert node.started(environment="a").slots == [0]


def test_a_message_that_fits_goes_first(seen: Effects) -> None:
    node, a, b = two_dressed(seen)
    next_a, next_b = node.message(environment="a"), node.message(environment="b")
    assert finish(node, b) == [next_b]
    assert finish(node, a) == [next_a]
    assert (next_a.slots, next_b.slots) == ([0], [1])
    finish(node, next_a)
    finish(node, next_b)


def test_but_not_for_ever(seen: Effects) -> None:
    node, a, b = two_dressed(seen)
    waiting, fitting = node.message(environment="c"), node.message(environment="b")
    assert finish(node, b, limits.ENVIRONMENT_TURN_S) == [waiting]
    assert finish(node, a, limits.ENVIRONMENT_TURN_S) == [fitting]


def test_and_not_before_a_more_urgent_one(seen: Effects) -> None:
    node, _, b = two_dressed(seen, lanes=(NARROW, URGENT))
    urgent = node.message(URGENT, environment="c")
    node.message(environment="b")
    assert finish(node, b) == [urgent]


def test_a_wide_one_keeps_its_place(seen: Effects) -> None:
    node, a, b = two_dressed(seen, lanes=(NARROW, WIDE))
    wide = node.message(WIDE, environment="b")
    node.message(environment="a")
    assert finish(node, a) == []
    assert finish(node, b) == [wide]
    assert wide.slots == [1, 0]


def test_plain_work_keeps_the_order_of_slots_and_messages(seen: Effects) -> None:
    node = Node(seen, slots=3)
    started = [node.started() for _ in range(3)]
    assert [held.slots for held in started] == [[0], [1], [2]]
    queued = [node.message() for _ in range(3)]
    assert [finish(node, held) for held in started] == [[held] for held in queued]


def test_a_slot_that_cannot_start_ends_all_of_its_message(seen: Effects) -> None:
    node = Node(seen)
    held = node.started(count=3, environment="a")
    node.tell(node.holder.on_slot_lost(0, -1, UNFIT, 1.0, stillborn=True))
    assert kinds(seen.take(Finish)) == [Kind.ENVIRONMENT] * 3
    assert not node.holder.idle
    node.tell(node.holder.on_stored(held))
    seen.take(Ack)


def test_a_later_death_has_one_to_blame(seen: Effects) -> None:
    node = Node(seen)
    node.started(count=3, environment="a")
    node.tell(node.holder.on_slot_lost(0, 1, DEATH, 1.0))
    assert kinds(seen.take(Finish)) == [Kind.RETURNED, Kind.CRASHED, Kind.RETURNED]
