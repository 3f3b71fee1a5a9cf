from __future__ import annotations

from typing import Any

import pytest
from tests.unit.core.effects import Effects

from farmhand.core.session import CheckLane, Delivered, Ended, Running, Send, Session, Stop
from farmhand.core.tasks import Batch, Group, Task, TaskState
from farmhand.model import limits
from farmhand.model.ids import LaneId, Token
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


def group(lane: Lane = LANE, retry: Retry | None = None, mean: float = 0.0001) -> Group:
    made = Group(lane, Profile("c"), retry or Retry())
    made.mean = mean
    return made


def tasks(of: Group, count: int, size: int = 10) -> list[Task]:
    return [Task(of, size, None) for _ in range(count)]


def submit(session: Session, of: Group, count: int = 1) -> list[Task]:
    made = tasks(of, count)
    session.on_submitted(of, made)
    return made


def sent(session: Session, seen: Effects, now: float = 0.0) -> Batch:
    """The one batch that is planned, stored at once."""
    seen.add(session.plan(now))
    batch = seen.take(Send).batch
    seen.nothing()
    session.on_stored(batch.token, len(session.batches))
    return batch


def report(batch: Batch, *kinds: Kind, first: int = 0, **more: Any) -> Report:
    """A report on indices from `first` on, one for each kind."""
    marks = tuple(Mark(first + i, kind, "why") for i, kind in enumerate(kinds) if kind is not Kind.SUCCEEDED)
    return Report(1, batch.token, first, len(kinds), "node", 3, marks, **more)


def end(session: Session, seen: Effects, *kinds: Kind, now: float = 0.0) -> Batch:
    """Send the one batch that is planned and report on it."""
    batch = sent(session, seen, now)
    seen.add(session.on_report(report(batch, *kinds), now))
    return batch


# ---- sending


def test_nothing_is_sent_before_the_lane_is_there(seen: Effects) -> None:
    session = Session(b"s")
    submit(session, group())
    seen.add(session.plan(0.0))
    seen.nothing()
    session.on_slots(LaneId("unknown"), 3)
    session.on_slots(LANE.id, 1)
    sent(session, seen)


def test_the_window_bounds_what_is_under_way(session: Session, seen: Effects) -> None:
    submit(session, group(mean=1.0), 100)
    seen.add(session.plan(0.0))
    assert len(seen.take_all(Send)) == 4 * limits.BATCHES_PER_SLOT
    seen.add(session.plan(0.0))


def test_a_bound_holds_over_all_lanes_and_starves_none(seen: Effects) -> None:
    session = Session(b"s", bound=3)
    other = Lane(priority=1)
    for lane in (LANE, other):
        submit(session, group(lane, mean=1.0), 10)
        session.on_slots(lane.id, 8)
    seen.add(session.plan(0.0))
    lanes = [effect.batch.group.lane_id for effect in seen.take_all(Send)]
    assert sorted(map(str, lanes)) == sorted([LANE.id, LANE.id, other.id]) or lanes.count(other.id) == 2
    assert len(session.batches) == 3


def test_groups_take_turns(session: Session, seen: Effects) -> None:
    first, second = group(mean=1.0), group(mean=1.0)
    submit(session, first, 20)
    submit(session, second, 20)
    seen.add(session.plan(0.0))
    senders = [effect.batch.group for effect in seen.take_all(Send)]
    assert senders[:4] == [first, second, first, second]


def test_a_batch_is_bounded_by_bytes_and_a_careful_task_travels_alone(session: Session, seen: Effects) -> None:
    of = group(mean=0.0001)
    large = tasks(of, 3, limits.BATCH_BYTES_MAX // 2 + 1)
    small = tasks(of, 3)
    small[1].careful = True
    session.on_submitted(of, [*large, *small])
    seen.add(session.plan(0.0))
    assert [effect.batch.count for effect in seen.take_all(Send)] == [1, 1, 2, 1, 1]


def test_cancelled_tasks_are_skipped_and_forgotten(session: Session, seen: Effects) -> None:
    of = group()
    made = submit(session, of, 5)
    for task in made[:4]:
        cancelled, effects = session.cancel(task)
        assert cancelled
        seen.add(effects)
    assert session.unfinished() == made[4:]
    batch = sent(session, seen)
    assert batch.tasks == made[4:]
    seen.add(session.cancel(made[4])[1])
    assert seen.take(Stop).targets == [(batch.token, 0)]
    assert not session.batches
    more = submit(session, of, 2)
    for task in more:
        session.cancel(task)
    seen.add(session.plan(0.0))
    assert not of.backlog
    assert not of.active
    assert session.open == 0


def test_tokens_differ_and_fit_63_bits(session: Session, seen: Effects) -> None:
    submit(session, group(mean=1.0), 10)
    seen.add(session.plan(0.0))
    tokens = {effect.batch.token for effect in seen.take_all(Send)}
    assert len(tokens) == 10
    assert all(0 <= token < 1 << 63 for token in tokens)


# ---- what the engine says


def test_a_refused_batch_waits_and_one_probe_at_a_time_asks(session: Session, seen: Effects) -> None:
    made = submit(session, group(mean=1.0), 3)
    seen.add(session.plan(0.0))
    batches = [effect.batch for effect in seen.take_all(Send)]
    for batch in batches:
        seen.add(session.on_refused(batch.token, 0.0, full=True))
    seen.add(session.on_refused(Token(1), 0.0, full=True))
    assert session.full
    assert [task.attempts for task in made] == [0, 0, 0]
    assert session.counts.rerun == 0
    assert session.next_deadline() == limits.STORE_RETRY_S
    seen.add(session.plan(0.5))
    seen.add(session.plan(1.0))
    probe = seen.take(Send).batch
    seen.add(session.plan(1.5))
    session.on_stored(probe.token, 9)
    assert not session.full
    seen.add(session.plan(1.5))
    assert len(seen.take_all(Send)) == 2


def test_a_probe_that_has_nothing_to_send_does_not_spin(session: Session, seen: Effects) -> None:
    (task,) = submit(session, group())
    batch = sent(session, seen)
    seen.add(session.on_refused(batch.token, 0.0, full=False))
    assert not session.full
    session.cancel(task)
    seen.add(session.plan(5.0))
    assert session.next_deadline() is None
    session.on_stored(Token(1), 1)


# ---- what nodes say


def test_a_success_is_delivered_once(session: Session, seen: Effects) -> None:
    made = submit(session, group(), 3)
    batch = sent(session, seen)
    ok = Kind.SUCCEEDED
    seen.add(session.on_report(report(batch, ok, Kind.RAISED, seconds=0.2, cpu=0.1), 0.0))
    ended = seen.take(Ended)
    assert (ended.task, ended.position, ended.node, ended.slot) == (made[1], 1, "node", 3)
    assert seen.take(Delivered).values == [(made[0], 0)]
    seen.add(session.on_report(report(batch, ok, ok), 0.0))
    seen.nothing()
    assert session.counts.stale == 2
    seen.add(session.on_report(report(batch, ok, first=2), 0.0))
    seen.take(Delivered)
    assert not session.batches
    assert session.windows[LANE.id].in_flight == 0
    seen.add(session.on_report(report(batch, ok), 0.0))
    assert session.counts.stale == 3
    assert (session.counts.done, session.counts.failed, session.open) == (2, 1, 0)
    assert session.counts.seconds == pytest.approx(0.2)


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, 4), (3, 1), (0, -1), (2, -1)])
def test_a_report_on_what_was_never_sent_changes_nothing(
    session: Session, seen: Effects, first: int, count: int
) -> None:
    submit(session, group(), 3)
    batch = sent(session, seen)
    seen.add(session.on_report(Report(1, batch.token, first, count, "n", 0), 0.0))
    assert session.counts.stale >= 0
    assert session.open == 3


def test_a_success_with_a_mark_is_a_success(session: Session, seen: Effects) -> None:
    submit(session, group())
    batch = sent(session, seen)
    seen.add(session.on_report(Report(1, batch.token, 0, 1, "n", 0, (Mark(0, Kind.SUCCEEDED),)), 0.0))
    seen.take(Delivered)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_a_node_that_counts_nonsense_teaches_nothing(session: Session, seen: Effects, seconds: float) -> None:
    of = group()
    submit(session, of)
    batch = sent(session, seen)
    seen.add(session.on_report(report(batch, Kind.SUCCEEDED, seconds=seconds), 0.0))
    seen.take(Delivered)
    assert of.mean == pytest.approx(0.0001)
    assert session.counts.seconds == 0


def test_a_start_is_told_once(session: Session, seen: Effects) -> None:
    made = submit(session, group(), 2)
    batch = sent(session, seen)
    seen.add(session.on_started(batch.token, 0, "n"))
    assert seen.take(Running).task is made[0]
    seen.add(session.on_started(batch.token, 0, "n"))
    seen.add(session.on_started(batch.token, 2, "n"))
    seen.add(session.cancel(made[1])[1])
    seen.take(Stop)
    seen.add(session.on_started(batch.token, 1, "n"))
    seen.nothing()
    assert session.cancel(made[0]) == (False, [])


def test_what_runs_for_nobody_is_stopped(session: Session, seen: Effects) -> None:
    seen.add(session.on_started(Token(5), 1, "n"))
    assert seen.take(Stop).targets == [(5, 1)]


# ---- running again


@pytest.mark.parametrize("kind", [Kind.RETURNED, Kind.KILLED])
def test_what_was_handed_back_runs_again_under_a_new_token(session: Session, seen: Effects, kind: Kind) -> None:
    (task,) = submit(session, group())
    old = end(session, seen, kind)
    assert task.state is TaskState.WAITING
    new = sent(session, seen)
    assert new.token != old.token
    assert new.attempt == 2
    seen.add(session.on_report(report(old, Kind.SUCCEEDED), 0.0))
    seen.nothing()
    assert not task.careful
    assert session.counts.rerun == 1


def test_a_lost_task_is_not_blamed_unless_it_ran(session: Session, seen: Effects) -> None:
    (task,) = submit(session, group())
    for _ in range(limits.LOSSES_MAX - 1):
        batch = end(session, seen, Kind.LOST)
        assert seen.take(Stop).targets == [(batch.token, 0)]
    assert (task.deaths, task.losses, task.careful) == (0, limits.LOSSES_MAX - 1, True)
    end(session, seen, Kind.LOST)
    assert seen.take(Ended).mark.kind is Kind.CRASHED


def test_a_task_under_which_nodes_die_is_crashed(session: Session, seen: Effects) -> None:
    submit(session, group())
    for last in (False, False, True):
        batch = sent(session, seen)
        seen.add(session.on_started(batch.token, 0, "n"))
        seen.take(Running)
        seen.add(session.on_report(report(batch, Kind.LOST), 0.0))
        seen.take(Ended if last else Stop)
    assert session.counts.failed == 1


def test_a_task_under_which_slots_die_is_crashed(session: Session, seen: Effects) -> None:
    (task,) = submit(session, group())
    for last in (False, False, True):
        end(session, seen, Kind.CRASHED)
        if last:
            assert seen.take(Ended).mark.kind is Kind.CRASHED
    assert (task.deaths, task.careful) == (limits.DEATHS_MAX, True)


def test_a_retry_waits_and_ends(session: Session, seen: Effects) -> None:
    of = group(retry=Retry(2, 1.0, 2.0, on=("error", "crash")))
    (task,) = submit(session, of)
    end(session, seen, Kind.RAISED)
    assert task.state is TaskState.BACKOFF
    assert session.unfinished() == [task]
    due = session.next_deadline()
    assert due is not None
    assert 0.75 <= due <= 1.25
    seen.add(session.on_tick(due - 0.01))
    seen.add(session.plan(due - 0.01))
    seen.add(session.on_tick(due))
    end(session, seen, Kind.CRASHED, now=due)
    assert (task.failures, task.deaths) == (2, 1)
    due = session.next_deadline()
    assert due is not None
    seen.add(session.on_tick(due))
    end(session, seen, Kind.RAISED, now=due)
    assert seen.take(Ended).mark.kind is Kind.RAISED
    assert session.next_deadline() is None


def test_a_task_that_is_cancelled_while_it_waits_for_its_retry_stays_so(session: Session, seen: Effects) -> None:
    (task,) = submit(session, group(retry=Retry(1, 1.0)))
    end(session, seen, Kind.RAISED)
    assert session.kill(task) == (True, [])
    assert session.unfinished() == []
    seen.add(session.on_tick(10.0))
    seen.add(session.plan(10.0))
    assert session.open == 0
    assert session.cancel(task) == (False, [])


# ---- stopping


def running(session: Session, seen: Effects, of: Group | None = None) -> tuple[Task, Batch]:
    (task,) = submit(session, of or group())
    batch = sent(session, seen)
    seen.add(session.on_started(batch.token, 0, "n"))
    seen.take(Running)
    return task, batch


@pytest.mark.parametrize("kind", [Kind.KILLED, Kind.RETURNED, Kind.LOST, Kind.CRASHED])
def test_a_kill_is_confirmed_by_its_report(session: Session, seen: Effects, kind: Kind) -> None:
    task, batch = running(session, seen)
    ended, effects = session.kill(task)
    assert not ended
    seen.add(effects)
    seen.take(Stop)
    seen.add(session.on_report(report(batch, kind), 0.0))
    assert seen.take(Ended).mark.kind is Kind.KILLED
    assert session.counts.cancelled == 1
    assert session.next_deadline() is None


def test_a_task_that_raised_before_it_was_killed_is_not_tried_again(session: Session, seen: Effects) -> None:
    task, batch = running(session, seen, group(retry=Retry(3)))
    seen.add(session.kill(task)[1])
    seen.take(Stop)
    seen.add(session.on_report(report(batch, Kind.RAISED), 0.0))
    assert seen.take(Ended).mark.kind is Kind.RAISED


def test_an_order_to_stop_is_repeated_until_it_is_answered(session: Session, seen: Effects) -> None:
    task, batch = running(session, seen)
    for _ in range(2):
        seen.add(session.kill(task)[1])
        seen.take(Stop)
    for now in (1.0, 2.5):
        seen.add(session.on_tick(now))
        assert seen.take(Stop).targets == [(batch.token, 0)]
        seen.add(session.on_tick(now + 0.1))
        assert session.next_deadline() == now + limits.STOP_RETRY_S
    seen.add(session.on_refused(batch.token, 3.0, full=False))
    assert seen.take(Ended).mark.kind is Kind.KILLED
    seen.add(session.on_tick(4.0))


def test_orders_for_attempts_that_were_given_up_are_repeated_a_few_times(session: Session, seen: Effects) -> None:
    (task,) = submit(session, group())
    batch = end(session, seen, Kind.LOST)
    seen.take(Stop)
    for now in range(1, limits.STOP_TRIES + 1):
        seen.add(session.on_tick(now * 2.0))
        assert seen.take(Stop).targets == [(batch.token, 0)]
    seen.add(session.on_tick(100.0))
    assert task.state is TaskState.WAITING


def test_only_so_many_orders_are_repeated(session: Session, seen: Effects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STOPS_MAX", 2)
    made = submit(session, group(), 4)
    batch = sent(session, seen)
    for task in made[:3]:
        seen.add(session.cancel(task)[1])
        seen.take(Stop)
    seen.add(session.on_report(report(batch, Kind.KILLED, Kind.KILLED), 0.0))
    seen.add(session.on_tick(1.0))
    assert seen.take(Stop).targets == [(batch.token, 2)]


# ---- the watchdog


def test_work_that_is_nowhere_runs_again(session: Session, seen: Effects) -> None:
    of = group(mean=1.0)
    made = submit(session, of, 4)
    seen.add(session.plan(0.0))
    gone, stopped, there, unstored = [effect.batch for effect in seen.take_all(Send)]
    for sequence, batch in enumerate((gone, stopped, there), 1):
        session.on_stored(batch.token, sequence)
    seen.add(session.on_started(stopped.token, 0, "n"))
    seen.take(Running)
    seen.add(session.kill(made[1])[1])
    seen.take(Stop)
    seen.add(session.on_report(report(stopped), 0.0))
    assert session.next_deadline() == 0.0  # the order is repeated
    seen.add(session.on_tick(1.0))
    seen.take(Stop)
    now = limits.WATCHDOG_S
    for _ in range(2):
        seen.add(session.on_tick(now))
        seen.take(Stop)
        assert seen.take(CheckLane).lane == LANE.id
        seen.add(session.on_lane_checked(LaneId("another"), now, 0))
        seen.add(session.on_lane_checked(LANE.id, now, there.sequence))
        now += limits.WATCHDOG_S
    assert seen.take(Stop).targets == [(gone.token, 0)]
    assert seen.take(Stop).targets == [(stopped.token, 0)]
    assert seen.take(Ended).mark.kind is Kind.KILLED
    assert made[0].state is TaskState.WAITING
    assert set(session.batches) == {there.token, unstored.token}


def test_work_that_is_found_again_is_not_lost(session: Session, seen: Effects) -> None:
    submit(session, group())
    batch = sent(session, seen)
    for oldest in (0, batch.sequence, 0):
        seen.add(session.on_lane_checked(LANE.id, 10.0, oldest))
    assert batch.missed == 1
    seen.add(session.on_lane_checked(LANE.id, 0.0, 0))  # asked before it was sent
    assert batch.missed == 1


def test_young_and_unstored_batches_are_not_asked_after(session: Session, seen: Effects) -> None:
    of = group(mean=1.0)
    submit(session, of, 1)
    seen.add(session.plan(0.0))
    seen.take(Send)
    submit(session, of, 1)
    seen.add(session.plan(4.0))
    session.on_stored(seen.take(Send).batch.token, 1)
    seen.add(session.on_tick(limits.WATCHDOG_S))
    assert session.next_deadline() == 2 * limits.WATCHDOG_S
