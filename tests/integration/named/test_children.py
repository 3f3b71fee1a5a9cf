"""Tasks of a named session that submit: their children run with no client there, and outlive engine and steward."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest
from tests.chaos.farm import FarmProcess, wait_dead, wait_until
from tests.integration.executor.meeting import PATIENCE_S, Meeting
from tests.integration.executor.tally import Tally
from tests.integration.named.branching import (
    MB,
    catch,
    fib,
    give_up_first,
    leave_one,
    mapped,
    meet_below,
    number_below,
    pass_on,
)
from tests.integration.named.conftest import Open

from farmhand import errors
from farmhand.client.session import Session


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "nobody"])
def test_recursion(opened: Open, attached: bool) -> None:
    session = opened()
    future = session.submit(fib, 9)
    if not attached:
        session.detach()
        session = opened()
        future = session[0]
    assert future.result(PATIENCE_S) == 34
    wait_until(lambda: session.state.done == 1, "only the session's own tasks are counted")
    assert (session.state.open, session.state.failed, session.state.cancelled) == (0, 0, 0)
    assert len(session) == 1


def test_values_large_and_small_and_errors(session: Session) -> None:
    assert session.submit(mapped, 2000).result(PATIENCE_S) == 2 * sum(range(2000))
    assert session.submit(pass_on, bytes(2 * MB)).result(PATIENCE_S) == 5 * MB + 1
    assert session.submit(catch).result(PATIENCE_S) == "below"
    assert session.submit(number_below).result(PATIENCE_S) == session.session


def test_children_of_who_has_inputs_and_is_one(session: Session) -> None:
    total = session.submit(operator.add, session.submit(fib, 4), session.submit(mapped, 3))
    assert session.submit(fib, total).result(PATIENCE_S) == 34


def test_children_go_with_their_parent(session: Session, meeting: Meeting, tally: Tally) -> None:
    session.submit(leave_one, meeting.place).result(PATIENCE_S)
    killed = session.submit(meet_below, meeting.place, tally)
    below = next(visitor for visitor in iter(meeting.wait, None) if visitor.word == 1)
    wait_until(killed.running, "its node has said so")
    assert killed.kill(PATIENCE_S)
    below.wait_gone()
    assert isinstance(killed.exception(PATIENCE_S), errors.TaskKilled)
    assert session.submit(fib, 5).result(PATIENCE_S) == 5


def test_a_parent_that_is_tried_again(session: Session, tally: Tally) -> None:
    assert session.options(retries=1).submit(give_up_first, tally).result(PATIENCE_S) == 7
    assert tally.count == 2


def test_the_engine_dies_while_a_parent_waits(
    running: FarmProcess, opened: Open, meeting: Meeting, tally: Tally
) -> None:
    session = opened()
    future = session.submit(meet_below, meeting.place, tally)
    visitor = meeting.wait()
    session.detach()
    engine = running.one("engine")
    engine.kill()
    wait_dead(engine)
    visitor.release()
    assert opened()[0].result(PATIENCE_S) == 11, "it began anew"
    assert isinstance(future.exception(PATIENCE_S), errors.FarmClosed)


def test_the_steward_dies_while_a_parent_waits(
    running: FarmProcess, opened: Open, meeting: Meeting, tally: Tally
) -> None:
    session = opened()
    future = session.submit(meet_below, meeting.place, tally)
    visitor = meeting.wait()
    steward = running.one("steward")
    steward.kill()
    wait_dead(steward)
    visitor.wait_gone()  # the child goes, for nobody knows any more whose it is
    meeting.wait().release()
    assert future.result(PATIENCE_S) == 21, "the parent begins anew"
    wait_until(lambda: session.state.done == 1 and not session.state.open, "it is counted once")


def test_the_node_dies_while_a_parent_waits(
    running: FarmProcess, session: Session, meeting: Meeting, tally: Tally, tmp_path: Path
) -> None:
    future = session.submit(meet_below, meeting.place, tally)
    visitor = meeting.wait()
    running.one("node").kill()
    visitor.wait_gone()
    meeting.wait().release()
    assert future.result(PATIENCE_S) == 21
