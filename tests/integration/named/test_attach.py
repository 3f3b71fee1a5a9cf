"""Coming back to a named session: from the same process, another process, another machine, and two at once."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.farm import FarmProcess, wait_until
from tests.integration.doors.test_doors import websocket_line
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.named.conftest import Open

from farmhand import AsyncFarm, Farm, SessionOptions, errors
from farmhand.client.session import Session


def double(value: Any) -> Any:
    return value * 2


def size_and_ends(data: bytes) -> tuple[int, bytes, bytes]:
    return len(data), data[:4], data[-4:]


SUBMITTING = """
import os, sys
from farmhand import Farm

def double(value):
    return value * 2

def size_and_ends(data):
    return len(data), data[:4], data[-4:]

if __name__ == "__main__":
    with Farm(sys.argv[1], session=sys.argv[2], output=False) as session:
        for i in range(100, 200):
            session.options(name=f"task {i}").submit(double, i)
            if i % 20 == 0:
                session.submit(size_and_ends, b"%04d" % i * 100_000)
    print(len(session._driver.ledger.blocks))
"""


def test_the_futures_by_number_slice_and_name(opened: Open) -> None:
    session = opened()
    assert len(session) == 0
    assert bool(session)
    assert list(session) == []
    for i in range(10):
        session.options(name=f"number {i}").submit(double, i)
    assert len(session) == 10
    session.detach()
    attached = opened()
    assert len(attached) == 10
    assert attached[3].result(PATIENCE_S) == 6
    assert attached[-1].result(PATIENCE_S) == 18
    assert [future.result(PATIENCE_S) for future in attached[2:8:3]] == [4, 10]
    assert attached["number 7"].result(PATIENCE_S) == 14
    assert [future.result(PATIENCE_S) for future in attached] == [2 * i for i in range(10)]
    for wrong in (10, -11):
        with pytest.raises(IndexError, match="of a session of 10"):
            attached[wrong]
    assert attached.submit(double, 50).result(PATIENCE_S) == 100
    assert attached[10].result(PATIENCE_S) == 100
    assert (attached.name, len(attached)) == (session.name, 11)
    assert session.name in repr(attached)


def test_an_unknown_session_and_bad_options(running: FarmProcess, opened: Open) -> None:
    known = opened()
    with Farm(running.file.address) as farm:
        with pytest.raises(errors.SessionUnknown, match=rf"'nobody'.*it has: .*{known.name}"):
            farm.attach("nobody")
        attached = farm.attach(known.name)
        assert isinstance(attached, Session)
        assert attached.submit(double, 2).result(PATIENCE_S) == 4
        attached.detach()
    bad: list[Any] = [
        "", "a b", "x" * 65, "a.b", 7, SessionOptions("a", keep=0), SessionOptions("a", keep="soon"), SessionOptions("a", keep="91d"),
        SessionOptions("a", stored_max=0), SessionOptions("a", stored_max="much"), SessionOptions("a", result_max=True),
    ]  # fmt: skip
    for session in bad:
        with pytest.raises(errors.BadOption):
            Farm(running.file.address, session=session)


def test_an_embedded_farm_has_no_named_sessions() -> None:
    with pytest.raises(errors.BadOption, match="farmhand up"):
        Farm(session="night-run")


def test_two_processes_attached_at_once_see_every_outcome(
    opened: Open, running: FarmProcess, script: Script, name: str
) -> None:
    session = opened()
    first = opened()
    other = script.start(SUBMITTING, running.file.address, name)
    mine: list[Any] = []
    for i in range(100):
        mine.append(session.options(name=f"task {i}").submit(double, i))
        if i % 20 == 0:
            mine.append(session.submit(size_and_ends, b"%04d" % i * 100_000))
            assert len([future for future in first if future is not None]) <= len(first)  # while others submit
    out, err = other.communicate(timeout=PATIENCE_S)
    assert other.returncode == 0, (out, err)
    wait_until(lambda: len(first) == len(session) == 210, "both know all")
    values = [[future.result(PATIENCE_S) for future in attached] for attached in (session, first)]
    assert values[0] == values[1]
    assert sorted(value for value in values[0] if isinstance(value, int)) == [2 * i for i in range(200)]
    large = {value for value in values[0] if isinstance(value, tuple)}
    assert large == {(400_000, b"%04d" % i, b"%04d" % i) for i in range(0, 200, 20)}
    assert [future.result(PATIENCE_S) for future in mine] == [
        value for value in values[0] if value in mine_values(mine)
    ]
    for i in (0, 55, 199):
        assert first[f"task {i}"].result(PATIENCE_S) == 2 * i


def mine_values(futures: list[Any]) -> list[Any]:
    return [future.result(PATIENCE_S) for future in futures]


def test_who_is_attached_sees_running_and_cancelled(opened: Open, meeting: Meeting) -> None:
    session, other = opened(), opened()
    futures = [session.submit(arrive, meeting.place, i) for i in range(3)]
    visitors = [meeting.wait(), meeting.wait()]
    wait_until(lambda: len(other) == 3, "the other knows them")
    theirs = list(other)
    wait_until(lambda: theirs[0].running() and theirs[1].running(), "two of them run")
    assert not theirs[2].running()
    late = opened()
    assert futures[2].cancel()
    with pytest.raises(CancelledError):
        theirs[2].result(PATIENCE_S)
    assert theirs[2].cancelled()
    for visitor in visitors:
        visitor.release()
    assert [future.result(PATIENCE_S) for future in late[:2]] == [0, 1]
    wait_until(late[2].cancelled, "it was cancelled")
    assert not late[2].running()


def test_from_another_machine_and_over_websocket(
    opened: Open, running: FarmProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened()
    session.submit(double, b"x" * 300_000)
    session.detach()
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path / "another machine"))
    for line in (running.file.join_line, websocket_line(running.file)):
        theirs = opened(line)
        assert len(theirs[0].result(PATIENCE_S)) == 600_000
        assert theirs.submit(double, 4).result(PATIENCE_S) == 8
        theirs.detach()
    monkeypatch.undo()
    again = opened()
    assert [future.result(PATIENCE_S) for future in again[1:]] == [8, 8]


def test_with_detaches_after_waiting_and_detach_does_not_wait(opened: Open, meeting: Meeting) -> None:
    session = opened()
    with session:
        quick = session.submit(double, 1)
    assert quick.done()
    with pytest.raises(RuntimeError, match="after shutdown"):
        session.submit(double, 1)
    second = opened()
    slow = second.submit(arrive, meeting.place, "slow")
    visitor = meeting.wait()
    second.detach()
    assert isinstance(slow.exception(PATIENCE_S), errors.FarmClosed)
    assert isinstance(second[0].exception(PATIENCE_S), errors.FarmClosed), "of a session that is left"
    visitor.release()
    assert opened()[1].result(PATIENCE_S) == "slow"


def test_an_async_farm_takes_a_session(running: FarmProcess, name: str, opened: Open) -> None:
    async def go() -> tuple[list[int], int]:
        async with AsyncFarm(running.file.address, session=name, output=False) as farm:
            values = [value async for value in farm.map(double, range(20))]
            return values, await farm.submit(double, 50)

    assert asyncio.run(go()) == ([2 * i for i in range(20)], 100)
    attached = opened()
    assert [future.result(PATIENCE_S) for future in attached] == [*(2 * i for i in range(20)), 100]

    async def wait_for_one() -> int:
        return await attached[20]

    assert asyncio.run(wait_for_one()) == 100


def test_it_belongs_to_its_process(session: Session) -> None:
    with pytest.raises(TypeError, match="belongs to its process"):
        pickle.dumps(session)
    with pytest.raises(TypeError, match="belongs to the process"):
        pickle.dumps(session.submit(double, 1))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded")
def test_a_forked_child_has_no_part_in_it(session: Session, meeting: Meeting) -> None:
    future = session.submit(arrive, meeting.place)
    visitor = meeting.wait()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        found = [type(future.exception(5)).__name__]
        try:
            session.submit(double, 1)
        except BaseException as error:  # noqa: BLE001 - it is told to the parent
            found.append(type(error).__name__)
        os.write(writing, " ".join(found).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100).decode() == "FarmClosed FarmClosed"
    visitor.release()
    assert future.result(PATIENCE_S) is None
    assert threading.active_count() > 1
