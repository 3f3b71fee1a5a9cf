from __future__ import annotations

import pytest
from tests.unit.core.effects import Effects
from tests.unit.core.holders import DEATH, NARROW, URGENT, WIDE, Node, work

from farmhand.core.holding import Ack, Drop, Finish, HeldState, Holder, KillSlot, Nak, Pull, Retract, Start
from farmhand.model import limits
from farmhand.model.messages import State
from farmhand.model.outcome import Kind, Mark


@pytest.fixture
def node(seen: Effects) -> Node:
    return Node(seen)


def kinds(finish: Finish) -> list[Kind]:
    assert [mark.index for mark in finish.marks] == list(range(finish.first, finish.first + finish.count))
    return [mark.kind for mark in finish.marks]


# ---- a message's life


def test_an_acknowledgement_waits_for_every_report(node: Node, seen: Effects) -> None:
    held = node.started(count=2)
    assert node.holder.busy == 1
    node.tell(node.holder.on_reported(0, 1, 0.1))
    node.tell(node.holder.on_stored(held))
    node.tell(node.holder.on_reported(0, 1, 0.2))
    assert held.state is HeldState.STORING
    assert not node.holder.quiet
    node.tell(node.holder.on_stored(held))
    assert seen.take(Ack).held is held
    assert node.holder.quiet
    node.tell(node.holder.on_stored(held))  # nothing is acknowledged twice


def test_the_next_starts_when_a_slot_frees_the_urgent_first(seen: Effects) -> None:
    node = Node(seen, lanes=(NARROW, URGENT))
    first = node.started()
    node.message()
    urgent = node.message(URGENT)
    node.tell(node.holder.on_reported(0, 1, 0.1))
    assert seen.take(Start).held is urgent
    node.tell(node.holder.on_stored(first))
    seen.take(Ack)


def test_a_message_that_comes_again_is_known(node: Node, seen: Effects) -> None:
    held = node.started()
    node.tell(node.holder.on_message(NARROW.id, held.sequence, held.work, 0, 1.0, "new cargo", wait=False))
    assert held.cargo == "new cargo"
    assert node.holder.held == {(NARROW.id, held.sequence): held}


def test_work_of_a_lane_that_is_not_served_is_handed_back(node: Node, seen: Effects) -> None:
    node.tell(node.holder.on_message(URGENT.id, 5, work(), 0, 0.0, None, wait=True))
    assert seen.take(Nak).held.lane == URGENT.id
    assert node.holder.lane(URGENT.id) is None
    assert node.holder.lane(NARROW.id) == NARROW


# ---- pulls


def test_one_lane_has_as_many_open_requests_as_there_is_room(seen: Effects) -> None:
    node = Node(seen, slots=2)
    assert len(node.pulls) == 4
    assert all(pull.wait for pull in node.pulls)
    node.started()
    assert len(node.pulls) == 4
    node.tell(node.holder.on_pull_ended(NARROW.id, wait=True))
    assert len(node.pulls) == 5
    node.tell(node.holder.on_connected())
    assert len(node.pulls) == 8
    node.tell(node.holder.on_pull_ended(URGENT.id, wait=True))


def test_no_slot_no_request(seen: Effects) -> None:
    holder = Holder(1)
    seen.add(holder.on_lanes([NARROW]))
    seen.nothing()
    seen.add(holder.on_slot_ready(0, 0.0))
    assert len(seen.take_all(Pull)) == 2


def test_a_refused_request_is_made_again_by_the_tick(node: Node) -> None:
    before = len(node.pulls)
    node.tell(node.holder.on_pull_ended(NARROW.id, wait=True, refused=True))
    assert len(node.pulls) == before
    node.tell(node.holder.on_tick(0.1))
    assert len(node.pulls) == before + 1


def test_of_many_lanes_those_known_to_have_work_are_asked_first(seen: Effects) -> None:
    node = Node(seen, lanes=(NARROW, URGENT))
    assert {(pull.lane, pull.wait) for pull in node.pulls} == {(NARROW.id, True), (URGENT.id, True)}
    node.pulls.clear()
    for sequence, lane, wait in ((1, NARROW, True), (2, NARROW, False), (3, URGENT, True)):
        node.tell(node.holder.on_message(lane.id, sequence, work(sequence), 5, 0.0, None, wait=wait))
        seen.take_all(Start)
    assert node.pulls == [Pull(NARROW.id, wait=False)]  # there was room for one, and only one was known to have work
    node.pulls.clear()
    node.tell(node.holder.on_reported(0, 1, 0.1))
    assert seen.take(Start).held.lane == URGENT.id
    assert not node.pulls
    node.tell(node.holder.on_reported(0, 1, 0.2))
    seen.take(Start)
    assert node.pulls == [Pull(URGENT.id, wait=False)]
    node.tell(node.holder.on_pull_ended(URGENT.id, wait=False))  # somebody was quicker
    assert node.pulls[1:] == [Pull(NARROW.id, wait=False), Pull(URGENT.id, wait=True)]


def test_a_lane_is_listened_to_while_another_has_work_for_all_slots(seen: Effects) -> None:
    node = Node(seen, lanes=(NARROW,))
    for sequence in (1, 2):
        node.tell(node.holder.on_message(NARROW.id, sequence, work(sequence), 99, 0.0, None, wait=True))
        seen.take_all(Start)
    node.pulls.clear()
    node.tell(node.holder.on_lanes([NARROW, URGENT]))
    assert node.pulls == [Pull(URGENT.id, wait=True)]
    node.pulls.clear()
    node.tell(node.holder.on_message(URGENT.id, 3, work(3), 0, 0.0, None, wait=True))
    node.tell(node.holder.on_reported(0, 1, 0.1))
    assert seen.take(Start).held.lane == URGENT.id  # and now that none of it is in hand, the lane is listened to again
    assert node.pulls == [Pull(URGENT.id, wait=True)]


def test_what_was_handed_back_is_asked_for_when_there_is_room_and_not_before(seen: Effects) -> None:
    node = Node(seen, lanes=(NARROW, URGENT))
    for sequence, lane in ((1, URGENT), (2, URGENT), (3, NARROW)):
        node.tell(node.holder.on_message(lane.id, sequence, work(sequence), 0, 0.0, None, wait=True))
        seen.take_all(Start)
    node.pulls.clear()
    node.tell(node.holder.on_tick(limits.SURPLUS_S))
    assert seen.take(Nak).held.lane == NARROW.id
    assert not [pull for pull in node.pulls if pull.lane == NARROW.id]
    node.tell(node.holder.on_reported(0, 1, 0.1))
    assert seen.take(Start).held.lane == URGENT.id
    assert Pull(NARROW.id, wait=False) in node.pulls


def test_a_lane_can_go_and_one_too_wide_is_never_served(seen: Effects) -> None:
    node = Node(seen, lanes=(NARROW, WIDE))
    assert node.holder.lane(WIDE.id) is None
    node.tell(node.holder.on_lanes([URGENT]))
    assert node.holder.lane(NARROW.id) is None
    node.tell(node.holder.on_lanes([]))
    assert node.holder.plan() == []


# ---- share


def test_what_is_beyond_the_share_is_handed_back_with_its_orders(node: Node, seen: Effects) -> None:
    node.started()
    kept, surplus = node.message(), node.message(now=0.01)
    node.tell(node.holder.on_kill(surplus.work.token, 0, -1))
    node.tell(node.holder.on_tick(0.02))
    node.tell(node.holder.on_tick(0.01 + limits.SURPLUS_S))
    assert seen.take(Nak).held is surplus
    assert node.holder.queue == [kept]
    again = node.message(token=surplus.work.token)
    assert again.dropped == {0}


def test_behind_a_long_task_nothing_waits(node: Node, seen: Effects) -> None:
    held = node.started()
    waiting = node.message()
    node.tell(node.holder.on_tick(limits.LONG_RUN_S - 0.01))
    before = len(node.pulls)
    node.tell(node.holder.on_tick(limits.LONG_RUN_S))
    assert seen.take(Nak).held is waiting
    assert len(node.pulls) == before
    node.tell(node.holder.on_reported(0, 1, 2.0))
    assert len(node.pulls) > before
    node.tell(node.holder.on_stored(held))
    seen.take(Ack)


# ---- wide tasks


def test_a_wide_task_waits_for_slots_and_is_not_overtaken(seen: Effects) -> None:
    node = Node(seen, slots=2, lanes=(NARROW, WIDE))
    first = node.started()
    wide = node.message(WIDE)
    node.message()
    node.tell(node.holder.on_tick(limits.LONG_RUN_S))
    seen.take_all(Nak)
    assert node.holder.queue[0] is wide
    node.tell(node.holder.on_reported(0, 1, 2.0))
    assert seen.take(Start).held is wide
    assert sorted(wide.slots) == [0, 1]
    assert node.holder.busy == 2
    node.tell(node.holder.on_stored(first))
    seen.take(Ack)


def test_a_reserved_slot_that_dies_comes_back_reserved(seen: Effects) -> None:
    node = Node(seen, slots=2, lanes=(NARROW, WIDE))
    wide = node.started(WIDE)
    first, second = wide.slots
    node.message()
    node.tell(node.holder.on_slot_lost(second, -1, DEATH, 0.1))
    node.tell(node.holder.on_slot_ready(second, 0.2))
    assert node.holder.idle == []
    assert wide.slots == [first, second]
    node.tell(node.holder.on_slot_lost(second, -1, DEATH, 0.3))
    node.tell(node.holder.on_reported(first, 1, 0.4))
    assert seen.take(Start).held.slots == [first]
    node.tell(node.holder.on_slot_ready(second, 0.5))
    assert node.holder.idle == [second]


def test_the_first_slot_of_a_wide_task_takes_it_along(seen: Effects) -> None:
    node = Node(seen, slots=2, lanes=(NARROW, WIDE))
    wide = node.started(WIDE)
    first, second = wide.slots
    node.tell(node.holder.on_slot_lost(first, 0, DEATH, 0.1))
    assert kinds(seen.take(Finish)) == [Kind.CRASHED]
    assert node.holder.idle == [second]


# ---- slots that die


def test_only_the_running_task_is_blamed(node: Node, seen: Effects) -> None:
    held = node.started(count=4)
    node.tell(node.holder.on_reported(0, 1, 0.1))
    node.tell(node.holder.on_slot_lost(0, 2, DEATH, 0.2))
    finish = seen.take(Finish)
    assert kinds(finish) == [Kind.RETURNED, Kind.CRASHED, Kind.RETURNED]
    assert finish.marks[1] == Mark(2, Kind.CRASHED, DEATH.text, None, 9, DEATH.tail, 5)
    for _ in range(2):
        node.tell(node.holder.on_stored(held))
    seen.take(Ack)


@pytest.mark.parametrize("running", [-1, 0, 9])
def test_if_nobody_knows_what_ran_the_next_is_blamed(node: Node, seen: Effects, running: int) -> None:
    node.started(count=3)
    node.tell(node.holder.on_reported(0, 1, 0.1))
    node.tell(node.holder.on_slot_lost(0, running, DEATH, 0.2))
    assert kinds(seen.take(Finish)) == [Kind.CRASHED, Kind.RETURNED]


def test_an_idle_slot_dies_and_comes_back(node: Node) -> None:
    node.tell(node.holder.on_slot_lost(0, -1, DEATH, 0.1))
    assert node.holder.idle == []
    node.tell(node.holder.on_slot_ready(0, 0.2))
    node.tell(node.holder.on_slot_ready(0, 0.2))
    assert node.holder.idle == [0]


# ---- stopping


def test_a_kill_of_the_running_task_spares_the_others(node: Node, seen: Effects) -> None:
    held = node.started(count=3)
    node.tell(node.holder.on_kill(held.work.token, 1, 1))
    assert seen.take(KillSlot).slot == 0
    node.tell(node.holder.on_kill(held.work.token, 1, 1))  # repeated: the slot dies already
    assert seen.take(Drop).index == 1
    held.dropped.clear()
    node.tell(node.holder.on_overtime(0, 1, Kind.TIMED_OUT))
    node.tell(node.holder.on_reported(0, 1, 0.1))
    node.tell(node.holder.on_slot_lost(0, 2, DEATH, 0.2))
    assert kinds(seen.take(Finish)) == [Kind.KILLED, Kind.RETURNED]  # 2 had just begun


def test_a_slot_that_is_being_killed_gets_no_work(node: Node, seen: Effects) -> None:
    held = node.started()
    waiting = node.message()
    node.tell(node.holder.on_kill(held.work.token, 0, 0))
    seen.take(KillSlot)
    node.tell(node.holder.on_reported(0, 1, 0.1))  # it was quicker
    assert node.holder.queue == [waiting]
    node.tell(node.holder.on_slot_lost(0, -1, DEATH, 0.2))
    node.tell(node.holder.on_slot_ready(0, 0.3))
    assert seen.take(Start).held is waiting


def test_what_has_not_begun_is_dropped(node: Node, seen: Effects) -> None:
    held = node.started(count=4)
    node.tell(node.holder.on_reported(0, 1, 0.1))
    node.tell(node.holder.on_kill(held.work.token, 0, 1))  # done
    node.tell(node.holder.on_kill(held.work.token, 3, 1))
    assert (seen.take(Drop).index, held.dropped) == (3, {3})
    waiting = node.message(count=2)
    node.tell(node.holder.on_kill(waiting.work.token, 1, -1))
    assert waiting.dropped == {1}
    node.tell(node.holder.on_slot_lost(0, 1, DEATH, 0.2))
    assert kinds(seen.take(Finish)) == [Kind.CRASHED, Kind.RETURNED, Kind.KILLED]
    node.tell(node.holder.on_kill(held.work.token, 3, -1))  # on its way to the engine


def test_an_order_may_come_before_the_work(node: Node, seen: Effects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farmhand.core.notes.NOTES_MAX", 2)
    for token in (101, 102, 103):
        node.tell(node.holder.on_kill(token, 0, -1))
    assert node.started(token=103).dropped == {0}
    assert node.message(token=101).dropped == set()  # forgotten


def test_overtime_kills_the_task_that_is_late_and_no_other(node: Node, seen: Effects) -> None:
    node.started(count=3)
    node.tell(node.holder.on_overtime(1, 0, Kind.TIMED_OUT))
    node.tell(node.holder.on_overtime(0, -1, Kind.OUT_OF_MEMORY))
    node.tell(node.holder.on_reported(0, 1, 0.1))
    node.tell(node.holder.on_overtime(0, 0, Kind.TIMED_OUT))  # it has just ended
    seen.nothing()
    node.tell(node.holder.on_overtime(0, 1, Kind.TIMED_OUT))
    seen.take(KillSlot)
    node.tell(node.holder.on_slot_lost(0, 1, DEATH, 0.2))
    assert kinds(seen.take(Finish)) == [Kind.TIMED_OUT, Kind.RETURNED]


# ---- giving back


def test_an_overdue_batch_gives_back_what_has_not_begun(node: Node, seen: Effects) -> None:
    held = node.started(count=5)
    node.tell(node.holder.on_tick(limits.OVERDUE_S / 2))
    node.tell(node.holder.on_tick(limits.OVERDUE_S))
    assert seen.take(Retract).slot == 0
    node.tell(node.holder.on_tick(2 * limits.OVERDUE_S))
    node.tell(node.holder.on_reported(0, 1, 0.3))
    node.tell(node.holder.on_retracted(0, held.work.token, 2, 0.3))
    finish = seen.take(Finish)
    assert (finish.first, kinds(finish)) == (2, [Kind.RETURNED] * 3)
    node.tell(node.holder.on_reported(0, 1, 0.4))
    for _ in range(3):
        node.tell(node.holder.on_stored(held))
    seen.take(Ack)


def test_all_that_was_left_may_be_given_back(node: Node, seen: Effects) -> None:
    held = node.started(count=3)
    node.tell(node.holder.on_tick(limits.OVERDUE_S))
    seen.take(Retract)
    node.tell(node.holder.on_reported(0, 1, 0.3))
    node.tell(node.holder.on_retracted(0, held.work.token, 1, 0.3))
    seen.take(Finish)
    assert held.state is HeldState.STORING


def test_a_slot_that_does_not_answer_is_asked_again(node: Node, seen: Effects) -> None:
    held = node.started(count=3)
    for now in (limits.OVERDUE_S, limits.OVERDUE_S + limits.LONG_RUN_S):
        node.tell(node.holder.on_tick(now))
        seen.take(Retract)
    node.tell(node.holder.on_retracted(0, held.work.token, 3, 2.0))  # there was nothing left
    assert held.end == 3
    node.tell(node.holder.on_kill(held.work.token, 0, 0))
    seen.take(KillSlot)
    node.tell(node.holder.on_tick(9.0))


def test_a_process_for_one_task_ends_with_it_and_is_nobodys_fault(node: Node, seen: Effects) -> None:
    held = node.started(state=State(process=True))
    waiting = node.message()
    node.tell(node.holder.on_reported(0, 1, 0.1))
    assert seen.take(KillSlot).slot == 0
    node.tell(node.holder.on_stored(held))
    assert seen.take(Ack).held is held
    node.tell(node.holder.on_slot_lost(0, -1, DEATH, 0.2))  # no report follows from that
    node.tell(node.holder.on_slot_ready(0, 0.3))
    assert seen.take(Start).held is waiting


def test_an_answer_about_an_earlier_message_is_dropped(node: Node, seen: Effects) -> None:
    node.tell(node.holder.on_retracted(0, 7, 1, 0.0))
    held = node.started(count=5)
    node.tell(node.holder.on_retracted(0, held.work.token, 2, 0.0))  # nobody asked
    node.tell(node.holder.on_tick(limits.OVERDUE_S))
    seen.take(Retract)
    node.tell(
        node.holder.on_retracted(0, held.work.token + 1, 2, 0.2)
    )  # the slot was slow to answer for the one before
    assert held.end == 5


# ---- sessions and stewards


def test_what_a_session_had_withdrawn_does_not_start_when_it_arrives_later(node: Node, seen: Effects) -> None:
    node.tell(node.holder.on_session_gone("k1", 7))
    node.tell(node.holder.on_session_gone("k1", 5))  # an older word, late
    node.tell(node.holder.on_message(NARROW.id, 7, work(), 0, 0.0, None, wait=True))
    assert seen.take(Ack).held.sequence == 7
    assert not node.holder.held
    node.sequence = 7
    node.started()  # somebody is there again


def test_what_runs_of_a_session_that_is_gone_goes_on_when_it_was_asked_for(seen: Effects) -> None:
    node = Node(seen, slots=1)
    running, waiting = node.started(), node.message()
    node.tell(node.holder.on_session_gone("k1", waiting.sequence, finish=True))
    assert seen.take(Ack).held is waiting
    assert running.state is HeldState.RUNNING
    assert waiting.state is HeldState.GONE


def test_a_session_that_is_gone_takes_its_work_along(seen: Effects) -> None:
    node = Node(seen, slots=2)
    running, other = node.started(count=3), node.started(session="k2")
    node.tell(node.holder.on_tick(limits.OVERDUE_S))
    seen.take(Retract)
    waiting = node.message()
    node.tell(node.holder.on_session_gone("k1"))
    assert seen.take(KillSlot).slot == running.slots[0]
    assert seen.take(Ack).held is running
    assert seen.take(Ack).held is waiting
    assert list(node.holder.held.values()) == [other]
    node.tell(node.holder.on_retracted(running.slots[0], running.work.token, 1, 0.2))
    node.tell(node.holder.on_reported(running.slots[0], 3, 0.2))  # its last words
    assert running.state is HeldState.GONE
    node.tell(node.holder.on_slot_lost(running.slots[0], 0, DEATH, 0.3))
    assert running.slots == []


def test_what_was_given_to_others_is_dropped_without_a_word(seen: Effects) -> None:
    node = Node(seen)
    running, waiting = node.started(), node.message()
    node.tell(node.holder.on_taken_back(waiting.work.token))
    node.tell(node.holder.on_taken_back(running.work.token))
    seen.take(KillSlot)
    node.tell(node.holder.on_taken_back(12345))
    assert node.holder.quiet


def test_a_disowned_node_keeps_nothing(seen: Effects) -> None:
    node = Node(seen, slots=2)
    storing, running = node.started(), node.started()
    node.tell(node.holder.on_reported(storing.slots[0], 1, 0.1))
    node.tell(node.holder.on_disowned())
    seen.take(KillSlot)
    node.tell(node.holder.on_stored(storing))
    assert node.holder.quiet
    assert running.state is HeldState.GONE


# ---- leaving


def test_a_leaving_node_finishes_what_runs(seen: Effects) -> None:
    node = Node(seen, slots=2)
    first, second = node.started(), node.started(count=2)
    waiting = node.message()
    node.tell(node.holder.on_leave())
    assert seen.take(Nak).held is waiting
    before = len(node.pulls)
    node.tell(node.holder.on_message(NARROW.id, 99, work(), 0, 0.1, None, wait=True))
    seen.take(Nak)
    node.tell(node.holder.on_reported(first.slots[0], 1, 0.2))
    node.tell(node.holder.on_stored(first))
    seen.take(Ack)
    assert len(node.pulls) == before
    node.tell(node.holder.on_grace_over())
    slot = seen.take(KillSlot).slot
    node.tell(node.holder.on_grace_over())
    node.tell(node.holder.on_slot_lost(slot, 0, DEATH, 0.3))
    assert kinds(seen.take(Finish)) == [Kind.RETURNED, Kind.RETURNED]
    node.tell(node.holder.on_stored(second))
    seen.take(Ack)
    assert node.holder.quiet
