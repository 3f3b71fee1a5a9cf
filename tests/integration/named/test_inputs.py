"""Futures and references as arguments in a named session: values go from slot to slot, with nobody there and whoever dies."""

from __future__ import annotations

import asyncio
import functools
import operator
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest
from tests.chaos.farm import FarmProcess, wait_dead, wait_until
from tests.integration.executor.calls import Box, append, fail, grow, inc, produce, unbox
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.executor.tally import Tally
from tests.integration.named.conftest import Open

from farmhand import AsyncFarm, Farm, errors
from farmhand.client.session import Session
from farmhand.engine import blobs, streams, subjects
from farmhand.model import messages
from farmhand.model.messages import Control

MB = 1024 * 1024


def fail_first(tally: Tally) -> int:
    if tally.add() == 1:
        raise OSError("not yet")
    return 7


def test_wherever_pickling_finds_them(session: Session) -> None:
    one, two = session.submit(inc, 0), session.submit(inc, 1)
    given = session.submit(lambda *args, **named: (args, named), one, [two, (one,)], {"k": {two}}, key=Box(one))
    args, named = given.result(PATIENCE_S)
    assert args == (1, [2, (1,)], {"k": {2}})
    assert named["key"].held == 1
    assert session.options(name="view").submit(unbox, Box(Box(two))).result(PATIENCE_S).held == 2
    assert list(session.map(operator.add, [one, two], [two, 10])) == [3, 12]


def test_a_chain_and_a_tree(session: Session) -> None:
    last = session.submit(inc, 0)
    for _ in range(999):
        last = session.submit(inc, last)
    level = [session.submit(inc, number) for number in range(256)]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [session.submit(operator.add, one, other) for one, other in pairs]
    assert last.result(PATIENCE_S) == 1000
    assert level[0].result(PATIENCE_S) == sum(range(1, 257))


def test_many_wait_for_many_and_some_are_not_in_memory(session: Session) -> None:
    first = [session.submit(inc, number) for number in range(6000)]  # more than the caretaker keeps in memory
    second = [session.submit(inc, future) for future in first]
    assert [future.result(PATIENCE_S) for future in second] == list(range(2, 6002))
    assert session.submit(sum, first).result(PATIENCE_S) == sum(range(1, 6001))


def test_one_call_joins_very_many(session: Session) -> None:
    parts = [session.submit(produce, 100_000) for _ in range(200)]  # 20 MB, each small enough for a message
    assert session.submit(lambda given: sum(map(len, given)), parts).result(PATIENCE_S) == 20_000_000


def test_each_call_has_a_copy_of_its_own(session: Session) -> None:
    first = session.submit(list, (1,))
    ways = [session.submit(append, first, number) for number in range(20)]
    again = session.submit(append, ways[3], 9)
    assert [way.result(PATIENCE_S) for way in ways] == [[1, number] for number in range(20)]
    assert again.result(PATIENCE_S) == [1, 3, 9]
    assert first.result(PATIENCE_S) == [1]


def test_a_large_value_visits_neither_client_nor_steward(session: Session) -> None:
    first = session.submit(produce, 10 * MB)
    before = session._driver.connection.bytes_in
    third = session.submit(grow, session.submit(grow, first))
    assert session.submit(len, third).result(PATIENCE_S) == 10 * MB + 2
    assert session.submit(len, first).result(PATIENCE_S) == 10 * MB
    assert session._driver.connection.bytes_in - before < MB
    assert third.result(PATIENCE_S)[-2:] == b"\x02\x02"


def test_numpy_results_and_inputs(session: Session) -> None:
    matrix = session.submit(np.ones, (400, 400))
    assert session.submit(np.sum, session.submit(np.dot, matrix, matrix)).result(PATIENCE_S) == 400**3
    assert matrix.result(PATIENCE_S).shape == (400, 400)


def test_a_future_that_somebody_attached_to(opened: Open, meeting: Meeting) -> None:
    session = opened()
    session.submit(produce, 2 * MB)
    session.submit(Box, 5)
    session.submit(arrive, meeting.place, 3)
    session.detach()
    visitor = meeting.wait()
    attached = opened()
    waiting = attached.submit(inc, attached[2])
    assert attached.submit(len, attached[0]).result(PATIENCE_S) == 2 * MB
    assert attached.submit(unbox, attached[1]).result(PATIENCE_S) == 5
    other = opened()
    both = other.submit(operator.add, attached.submit(inc, 1), waiting)
    assert not waiting.done()
    visitor.release()
    assert waiting.result(PATIENCE_S) == 4
    assert both.result(PATIENCE_S) == 6
    assert attached.submit(operator.add, waiting, both).result(PATIENCE_S) == 10


def test_modules_of_values_travel(script: Script, running: FarmProcess, name: str, opened: Open) -> None:
    script.file(
        "barn_shapes.py",
        "class Shape:\n    def __init__(self, n):\n        self.n = n\ndef make(n):\n    return Shape(n)\n",
    )
    made = script.run(
        "import sys, barn_shapes\nfrom farmhand import Farm\ns = Farm(sys.argv[1], session=sys.argv[2])\n"
        "s.submit(barn_shapes.make, 42).result(30)\ns.detach()",
        running.file.address, name,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    attached = opened()
    assert attached.submit(lambda shape: shape.n, attached[0]).result(PATIENCE_S) == 42


def test_a_failure_reaches_all_that_need_it(opened: Open) -> None:
    session = opened()
    first = session.submit(fail)
    chain = [session.submit(inc, first)]
    for _ in range(200):
        chain.append(session.submit(inc, chain[-1]))
    with pytest.raises(
        errors.InputFailed, match=r"inc: did not run, because its input 'fail' failed: ValueError: no value"
    ) as caught:
        chain[-1].result(PATIENCE_S)
    assert isinstance(caught.value.__cause__, ValueError)
    assert not wait(chain, PATIENCE_S).not_done
    assert isinstance(session.submit(inc, first).exception(PATIENCE_S), errors.InputFailed)  # also when that is known
    assert isinstance(session.submit(fail, session.submit(inc, 1)).exception(PATIENCE_S), ValueError)
    wait_until(lambda: session.state.failed == 204 and not session.state.open, "all are counted")
    session.detach()
    attached = opened()
    error = attached[100].exception(PATIENCE_S)
    assert isinstance(error, errors.InputFailed)
    assert isinstance(error.__cause__, ValueError)


def test_cancelling_an_input(opened: Open, meeting: Meeting) -> None:
    session = opened()
    blockers = [session.submit(arrive, meeting.place) for _ in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    first = session.submit(inc, 1)
    third = session.submit(inc, second := session.submit(inc, first))
    assert first.cancel()
    for future in (second, third, session.submit(inc, second)):
        with pytest.raises(CancelledError):
            future.result(PATIENCE_S)
        assert future.cancelled()
    for visitor in visitors:
        visitor.release()
    wait(blockers, PATIENCE_S)
    wait_until(lambda: session.state.cancelled == 4, "all are counted")
    with pytest.raises(CancelledError):
        opened()[4].result(PATIENCE_S)


def test_killing_an_input(session: Session, meeting: Meeting) -> None:
    first = session.submit(arrive, meeting.place)
    second = session.submit(inc, first)
    meeting.wait()
    wait_until(first.running, "it runs")
    assert first.kill(PATIENCE_S)
    error = second.exception(PATIENCE_S)
    assert isinstance(error, errors.InputFailed)
    assert isinstance(error.__cause__, errors.TaskKilled)


def test_an_input_that_is_tried_again(session: Session, tally: Tally) -> None:
    first = session.options(retries=1).submit(fail_first, tally)
    assert session.submit(inc, first).result(PATIENCE_S) == 8


def test_who_waits_holds_no_slot(session: Session, meeting: Meeting) -> None:
    first = session.submit(arrive, meeting.place, 1)
    waiting = [session.submit(inc, first) for _ in range(5000)]
    visitor = meeting.wait()
    assert list(session.map(inc, range(100))) == list(range(1, 101))
    assert not any(future.running() for future in waiting)
    visitor.release()
    assert {future.result(PATIENCE_S) for future in waiting} == {2}


def test_a_value_that_has_gone_is_named(session: Session) -> None:
    first = session.submit(produce, 2 * MB)
    assert session.submit(len, first).result(PATIENCE_S) == 2 * MB
    driver = session._driver
    run = functools.partial(asyncio.run_coroutine_threadsafe, loop=driver.loop)
    there = run(streams.subjects_in(driver.connection, subjects.BLOB)).result(PATIENCE_S)
    names = {subject.split(".")[2] for subject in there if subject.split(".")[1] == driver.session_id}
    forget = messages.encode(Control(unwanted=tuple(names)))  # what nodes have of it too
    driver.connection.publish(subjects.control_of_session(driver.session_id), forget)
    run(blobs.remove(driver.connection, driver.session_id)).result(PATIENCE_S)
    with pytest.raises(errors.InputLost, match="the result of 'produce' is gone from the farm"):
        session.submit(len, first).result(PATIENCE_S)


def test_what_was_scattered(opened: Open) -> None:
    session = opened()
    small, large = session.scatter([1, 2]), session.scatter(np.ones(500_000))
    ways = [session.submit(lambda one, other: (one[0], float(other.sum())), small, large) for _ in range(50)]
    assert {way.result(PATIENCE_S) for way in ways} == {(1, 500_000.0)}
    stored = session.state.stored
    assert stored < 10 * MB, "what many calls have is counted once"
    session.submit(lambda other, _: len(other), large, session.submit(inc, 1))
    session.detach()
    assert opened()[-1].result(PATIENCE_S) == 500_000


def test_futures_of_others(session: Session, opened: Open, running: FarmProcess, meeting: Meeting) -> None:
    mine = session.submit(arrive, meeting.place, 1)
    visitor = meeting.wait()
    other = opened(session=f"{session.name}-other")
    with Farm(running.file.address, output=False) as plain:
        theirs = plain.submit(arrive, meeting.place, 2)
        second = meeting.wait()
        with pytest.raises(errors.BadOption, match=r"result of 'arrive' belongs to another session.*result\(\)"):
            other.submit(inc, mine)
        with pytest.raises(errors.BadOption, match=r"result of 'arrive' belongs to another session.*result\(\)"):
            plain.submit(inc, mine)
        with pytest.raises(errors.BadOption, match="belongs to another Farm"):
            session.submit(inc, theirs)
        visitor.release()
        second.release()
        assert (mine.result(PATIENCE_S), theirs.result(PATIENCE_S)) == (1, 2)
        assert plain.submit(inc, mine).result(PATIENCE_S) == 2  # the value is here
        assert other.submit(inc, mine).result(PATIENCE_S) == 2
        assert session.submit(inc, theirs).result(PATIENCE_S) == 3


def test_with_asyncio(running: FarmProcess, opened: Open, name: str) -> None:
    opened()

    async def run() -> None:
        async with AsyncFarm(running.file.address, session=name, output=False) as farm:
            second = farm.submit(inc, farm.submit(inc, 1))
            assert await farm.submit(operator.add, second, 1) == 4
            with pytest.raises(errors.InputFailed):
                await farm.submit(inc, farm.submit(fail))

    asyncio.run(run())


def test_the_client_goes_before_the_input_is_done(opened: Open, meeting: Meeting) -> None:
    session = opened()
    last = session.submit(arrive, meeting.place, 1)
    for _ in range(20):
        last = session.submit(inc, last)
    session.detach()
    meeting.wait().release()
    attached = opened()
    assert attached[-1].result(PATIENCE_S) == 21


@pytest.mark.parametrize("role", ["steward", "engine", "node"])
def test_a_process_dies_while_tasks_wait(running: FarmProcess, opened: Open, meeting: Meeting, role: str) -> None:
    session = opened()
    early = session.submit(produce, 50_000)
    assert len(early.result(PATIENCE_S)) == 50_000
    first = session.submit(arrive, meeting.place, 1)
    meeting.wait() if role == "node" else None
    failed = session.submit(fail, first)
    second = [session.submit(inc, first) for _ in range(300)]
    third = session.submit(lambda data, values: (len(data), sum(values)), early, second)
    behind = session.submit(inc, failed)
    session._driver.flush()
    victim = running.one(role)
    victim.kill()
    wait_dead(victim)
    if role != "node":
        wait_until(session.status, "the farm answers")
    meeting.wait().release()
    assert third.result(PATIENCE_S) == (50_000, 600)
    assert isinstance(behind.exception(PATIENCE_S), errors.InputFailed)
