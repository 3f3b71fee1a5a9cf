from __future__ import annotations

import pytest
from tests.unit.core.effects import Effects

from farmhand.core.feeding import Unfed
from farmhand.core.session import Delivered, Ended, Send, Session, Stop
from farmhand.core.tasks import Batch, Group, Links, Task, TaskState
from farmhand.model import limits, messages
from farmhand.model.messages import Profile, Report
from farmhand.model.needs import Lane
from farmhand.model.outcome import Kind, Mark
from farmhand.model.retry import Retry

LANE = Lane()


@pytest.fixture
def session() -> Session:
    made = Session(b"secret of a test")
    made.window(LANE)
    made.on_slots(LANE.id, 4)
    return made


def group(name: str = "f", mean: float = 0.0001, retry: Retry | None = None) -> Group:
    made = Group(LANE, Profile(name), retry or Retry())
    made.mean = mean
    return made


def submit(session: Session, of: Group, *inputs: Task, size: int = 10) -> Task:
    task = Task(of, size, None)
    if inputs:
        task.links = Links(inputs)
    session.on_submitted(of, [task])
    return task


def sent(session: Session, seen: Effects, now: float = 0.0) -> Batch:
    seen.add(session.plan(now))
    batch = seen.take(Send).batch
    session.on_stored(batch.token, 1)
    return batch


def told(session: Session, seen: Effects, batch: Batch, *marks: Mark) -> None:
    report = Report(messages.PROTOCOL, batch.token, 0, batch.count, "n", 0, marks)
    seen.add(session.on_report(report, 0.0))


def chain(session: Session, of: Group, length: int) -> list[Task]:
    made = [submit(session, of)]
    for _ in range(length - 1):
        made.append(submit(session, of, made[-1]))
    return made


def test_a_task_waits_for_the_value_of_another(session: Session, seen: Effects) -> None:
    first = submit(session, group("f"))
    second = submit(session, group("g"), first)
    assert second.state is TaskState.BLOCKED
    batch = sent(session, seen)
    assert batch.tasks == [first]
    told(session, seen, batch)
    seen.take(Delivered)
    assert second.state is TaskState.WAITING
    assert sent(session, seen).tasks == [second]


def test_an_input_that_is_done_already_is_no_reason_to_wait(session: Session, seen: Effects) -> None:
    of = group()
    first = submit(session, of)
    told(session, seen, sent(session, seen))
    seen.take(Delivered)
    assert submit(session, of, first).state is TaskState.WAITING


def test_a_chain_travels_in_one_message_in_order(session: Session, seen: Effects) -> None:
    made = chain(session, group(), limits.BATCH_TASKS_MAX + 10)
    batch = sent(session, seen)
    assert batch.tasks == made[: limits.BATCH_TASKS_MAX]
    told(session, seen, batch)
    seen.take(Delivered)
    assert sent(session, seen).tasks == made[limits.BATCH_TASKS_MAX :]


def test_a_task_follows_only_when_all_that_it_lacks_is_ahead(session: Session, seen: Effects) -> None:
    of, other = group("f"), group("g")
    near, far = submit(session, of), submit(session, other)
    both, one = submit(session, of, near, far), submit(session, of, near, near)
    seen.add(session.plan(0.0))
    assert {tuple(effect.batch.tasks) for effect in seen.take_all(Send)} == {(near, one), (far,)}
    assert both.state is TaskState.BLOCKED


def test_tasks_of_unknown_or_long_duration_travel_alone(session: Session, seen: Effects) -> None:
    for mean in (-1.0, 1.0):
        first, second = chain(session, group(mean=mean), 2)
        batch = sent(session, seen)
        assert batch.tasks == [first]
        told(session, seen, batch)
        seen.take(Delivered)
        told(session, seen, sent(session, seen))
        seen.take(Delivered)
        assert second.succeeded


def test_who_was_behind_an_input_that_comes_back_waits_again(session: Session, seen: Effects) -> None:
    first, second = chain(session, group(), 2)
    batch = sent(session, seen)
    told(session, seen, batch, Mark(0, Kind.RETURNED), Mark(1, Kind.RETURNED))
    assert (first.state, second.state) == (TaskState.WAITING, TaskState.BLOCKED)
    batch = sent(session, seen)
    assert batch.tasks == [first, second]
    told(session, seen, batch, Mark(0, Kind.LOST), Mark(1, Kind.LOST))
    seen.take_all(Stop)
    batch = sent(session, seen)
    assert batch.tasks == [first]  # it is careful now, so nobody goes with it
    told(session, seen, batch)
    seen.take(Delivered)
    assert sent(session, seen).tasks == [second]


def test_an_input_that_is_tried_again_has_not_failed(session: Session, seen: Effects) -> None:
    first, second = chain(session, group(retry=Retry(max=1, delay=1.0)), 2)
    told(session, seen, sent(session, seen), Mark(0, Kind.RAISED), Mark(1, Kind.RETURNED))
    assert (first.state, second.state) == (TaskState.BACKOFF, TaskState.BLOCKED)
    seen.add(session.on_tick(2.0))
    assert sent(session, seen, 2.0).tasks == [first, second]


def test_a_failure_ends_what_needs_it_near_and_far(session: Session, seen: Effects) -> None:
    of = group()
    made = chain(session, of, 10_000)
    aside = submit(session, of, made[5000])
    batch = sent(session, seen)
    told(session, seen, batch, Mark(0, Kind.RAISED), *(Mark(i, Kind.RETURNED) for i in range(1, batch.count)))
    assert seen.take(Ended).task is made[0]
    late = submit(session, of, made[-1])
    seen.add(session.plan(0.0))
    unfed = seen.take_all(Unfed)
    assert {effect.task for effect in unfed} == {*made[1:], aside, late}
    assert {effect.cause for effect in unfed} == {made[0]}
    assert (session.open, session.unfinished(), session.feeding.blocked) == (0, [], {})


@pytest.mark.parametrize("behind", [True, False])
def test_cancelling_an_input_ends_what_needs_it(session: Session, seen: Effects, behind: bool) -> None:
    first, second = chain(session, group(), 2)
    if behind:
        batch = sent(session, seen)
        cancelled, effects = session.cancel(first)
        seen.add(effects)
        seen.take(Stop)
        assert cancelled
        assert second.state is TaskState.SENT  # its node says that it cannot run
        told(session, seen, batch, Mark(0, Kind.KILLED), Mark(1, Kind.RETURNED))
    else:
        assert session.cancel(first) == (True, [])
    assert session.unfinished() == [second]
    seen.add(session.plan(0.0))
    assert seen.take(Unfed).cause is first
    assert session.open == 0


def test_cancelling_a_task_leaves_its_input_alone(session: Session, seen: Effects) -> None:
    first, second = chain(session, group(), 2)
    assert session.cancel(second) == (True, [])
    batch = sent(session, seen)
    assert batch.tasks == [first]
    told(session, seen, batch)
    seen.take(Delivered)
    assert session.open == 0


def test_a_message_does_not_grow_beyond_its_bytes(session: Session, seen: Effects) -> None:
    of = group()
    first = submit(session, of)
    submit(session, of, first, size=limits.BATCH_BYTES_MAX)
    assert sent(session, seen).tasks == [first]
