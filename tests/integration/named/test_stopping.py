"""Cancelling, killing and leaving: what waits is withdrawn for everybody, and no end of a client stops anything by itself."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import CancelledError, wait

import pytest
from tests.chaos.farm import FarmProcess, wait_until
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.named.conftest import Open

from farmhand import errors
from farmhand.client.session import Session


def double(value: int) -> int:
    return value * 2


def test_cancel_before_while_and_after(session: Session, meeting: Meeting) -> None:
    busy = [session.submit(arrive, meeting.place, i) for i in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    waiting = [session.submit(double, i) for i in range(30)]
    assert all(future.cancel() for future in waiting[::2])
    assert waiting[0].cancelled()
    assert waiting[0].cancel(), "as often as one likes"
    with pytest.raises(CancelledError):
        waiting[0].result(PATIENCE_S)
    wait_running(busy)
    assert not busy[0].cancel()
    for visitor in visitors:
        visitor.release()
    assert [future.result(PATIENCE_S) for future in waiting[1::2]] == [2 * i for i in range(1, 30, 2)]
    assert not waiting[1].cancel()
    assert [future.result(PATIENCE_S) for future in busy] == [0, 1]
    session.detach()


def wait_running(futures: list) -> None:  # type: ignore[type-arg]
    wait_until(lambda: all(future.running() for future in futures), "they run")


def test_a_parked_task_is_cancelled_too(session: Session, meeting: Meeting) -> None:
    busy = [session.submit(arrive, meeting.place, i) for i in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    many = [session.submit(double, i) for i in range(6000)]  # more than the caretaker keeps in memory
    assert many[-1].cancel()
    assert many[5000].kill(PATIENCE_S)
    for visitor in visitors:
        visitor.release()
    wait([*busy, *many], PATIENCE_S)
    assert {i for i, future in enumerate(many) if future.cancelled()} == {5000, 5999}
    assert sum(future.result() for future in many if not future.cancelled()) == sum(range(6000)) * 2 - 10_000 - 11_998


def test_kill_stops_what_runs_for_everybody(opened: Open, meeting: Meeting) -> None:
    session, other = opened(), opened()
    future = session.submit(arrive, meeting.place)
    visitor = meeting.wait()
    wait_running([future])
    assert other[0].kill(PATIENCE_S)
    visitor.wait_gone()
    assert isinstance(future.exception(PATIENCE_S), errors.TaskKilled)
    assert not other[0].kill(PATIENCE_S) or isinstance(other[0].exception(), errors.TaskKilled)


@pytest.mark.parametrize("moment", ["at once", "stored"])
def test_shutdown_with_cancel_futures(opened: Open, meeting: Meeting, moment: str) -> None:
    session = opened()
    busy = [session.submit(arrive, meeting.place, i) for i in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    wait_running(busy)
    waiting = [session.submit(double, i) for i in range(5000)]
    if moment == "stored":
        session._driver.flush()
    ending = threading.Thread(target=session.shutdown, kwargs={"cancel_futures": True})
    ending.start()
    wait_until(waiting[-1].done, "what waits is cancelled")  # before a slot is free for it
    for visitor in visitors:
        visitor.release()
    ending.join()
    assert [future.result(0) for future in busy] == [0, 1]
    assert all(future.done() for future in waiting)
    assert any(future.cancelled() for future in waiting)
    attached = opened()
    states = [future.cancelled() for future in waiting]
    theirs = list(attached)
    assert not wait(theirs, PATIENCE_S).not_done
    assert [future.cancelled() for future in theirs][2:] == states


ENDING = """
import sys
from farmhand import Farm
from tests.integration.executor.meeting import arrive

def double(value):
    return value * 2

if __name__ == "__main__":
    session = Farm(sys.argv[1], session=sys.argv[2], output=False)
    futures = [session.submit(arrive, (sys.argv[3], int(sys.argv[4])), i) for i in range(2)]
    futures += [session.submit(double, i) for i in range(2000)]
    print("submitted", flush=True)
    if "wait" in sys.argv:
        with session:
            futures[0].result()
"""


@pytest.mark.parametrize("how", ["end of the program", "Ctrl-C"])
def test_a_program_that_ends_leaves_everything_stored(
    opened: Open, running: FarmProcess, script: Script, meeting: Meeting, name: str, how: str
) -> None:
    host, port = meeting.place
    arguments = [running.file.address, name, host, str(port)]
    program = script.start(ENDING, *arguments, *(["wait"] if how == "Ctrl-C" else []), PYTHONPATH=".:src:" + _root())
    visitors = [meeting.wait(), meeting.wait()]
    assert program.stdout is not None
    assert program.stdout.readline() == "submitted\n"
    if how == "Ctrl-C":
        program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=PATIENCE_S)  # though its tasks run
    assert program.returncode == (0 if how != "Ctrl-C" else -signal.SIGINT), err
    assert ("KeyboardInterrupt" in err) == (how == "Ctrl-C"), err
    for visitor in visitors:
        visitor.release()
    attached = opened()
    assert len(attached) == 2002
    assert [future.result(PATIENCE_S) for future in attached] == [0, 1, *(2 * i for i in range(2000))]


def _root() -> str:
    from pathlib import Path

    return str(Path(__file__).resolve().parents[3])


def test_shutdown_without_waiting_lets_the_futures_end(session: Session) -> None:
    futures = [session.submit(double, i) for i in range(100)]
    session.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        session.submit(double, 1)
    assert [future.result(PATIENCE_S) for future in futures] == [2 * i for i in range(100)]
