"""Every kind of end, of arguments and of results of a named session's tasks, as who submitted sees it and as who attaches does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, as_completed, wait
from pathlib import Path
from typing import Any

import joblib
import pytest
from tests.chaos.farm import FarmProcess, wait_until
from tests.integration.executor.conftest import Script, priorities_sent
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.executor.tally import Tally
from tests.integration.named.conftest import Open

import farmhand
import farmhand.joblib
from farmhand import Farm, errors
from farmhand.client.session import Session

count = 0


def double(value: Any) -> Any:
    return value * 2


def fail(text: str) -> None:
    raise LookupError(text)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill(folder: str) -> str:
    Path(folder, str(os.getpid())).touch()
    return folder


def number_of_calls(_: int) -> int:
    global count
    count += 1
    return count


def fail_until(tally: Tally, runs: int) -> int:
    found = tally.add()
    if found < runs:
        raise OSError(f"run {found}")
    return found


def the_code() -> str:
    return os.environ["NAMED_TEST"]


def set_the_code(value: str) -> None:
    os.environ["NAMED_TEST"] = value


def test_values_of_all_kinds(opened: Open) -> None:
    session = opened()
    values = [1, -(2**80), 1.5, None, True, "ü", b"x", [1, [2]], {"a": (1, 2)}, {3}, bytes(3_000_000), "x" * 200_000]
    futures = [session.submit(lambda value: value, value) for value in values]
    assert [future.result(PATIENCE_S) for future in futures] == values
    session.detach()
    attached = opened()
    assert [future.result(PATIENCE_S) for future in attached] == values
    assert [future.result(PATIENCE_S) for future in attached] == values, "large values can be read once only"


def test_an_exception_comes_with_its_traceback_and_its_place(opened: Open) -> None:
    session = opened()
    mine = session.submit(fail, "over there").exception(PATIENCE_S)
    session.detach()
    theirs = opened()[0].exception(PATIENCE_S)
    for error in (mine, theirs):
        assert type(error) is LookupError
        assert error.args == ("over there",)
        notes = "\n".join(error.__notes__)
        assert "Task 'fail' on node" in notes
        assert "attempt 1" in notes
        assert "raise LookupError(text)" in notes + str(error.__cause__)


def test_crash_timeout_and_kill_have_their_errors(opened: Open, meeting: Meeting) -> None:
    session = opened()
    crash = session.submit(die)
    late = session.options(timeout=0.2).submit(arrive, meeting.place, "late")
    assert isinstance(crash.exception(PATIENCE_S), errors.TaskCrashed)
    assert isinstance(late.exception(PATIENCE_S), errors.TaskTimedOut)
    killed = session.submit(arrive, meeting.place, "killed")
    visitor = next(v for v in iter(meeting.wait, None) if v.word == "killed")
    wait_until(killed.running, "its node has said so")  # one message, to the caretaker too
    assert killed.kill(PATIENCE_S)
    visitor.wait_gone()
    session.detach()
    attached = opened()
    found = [future.exception(PATIENCE_S) for future in attached]
    assert [type(error) for error in found] == [errors.TaskCrashed, errors.TaskTimedOut, errors.TaskKilled]
    assert isinstance(found[0], errors.TaskCrashed)
    assert found[0].signal == signal.SIGKILL
    assert "0.2" in str(mine := late.exception()), mine


def test_retries_are_the_caretakers(opened: Open, tally: Tally) -> None:
    session = opened()
    assert (
        session.options(retries=farmhand.Retry(max=3, delay=0.01)).submit(fail_until, tally, 3).result(PATIENCE_S) == 3
    )
    error = (
        session.options(retries=farmhand.Retry(max=1, delay=0.01)).submit(fail_until, tally, 9).exception(PATIENCE_S)
    )
    assert isinstance(error, OSError)
    assert "attempt 2" in "\n".join(error.__notes__)


def test_initializer_and_name(opened: Open) -> None:
    session = opened(initializer=set_the_code, initargs=("42",))
    assert session.submit(the_code).result(PATIENCE_S) == "42"
    assert set(session.map(number_of_calls, range(4))) == {1}
    named = session.options(name="the one").submit(double, 21)
    assert session["the one"].result(PATIENCE_S) == named.result() == 42
    with pytest.raises(KeyError, match=r"4 tasks .* are named 'number_of_calls'"):
        session["number_of_calls"]
    with pytest.raises(KeyError, match=r"0 tasks .* are named 'nothing'"):
        session["nothing"]
    assert len(session.named("number_of_calls")) == 4
    assert session.named("nothing") == []


def test_state_of_the_session(session: Session) -> None:
    assert max(session.options(state="session").map(number_of_calls, range(20), timeout=PATIENCE_S)) >= 10


def test_a_failing_initializer_ends_its_tasks_and_not_the_session(opened: Open) -> None:
    session = opened(initializer=fail, initargs=("no start",))
    assert isinstance(session.submit(double, 1).exception(PATIENCE_S), errors.InitializerFailed)
    session.detach()
    assert opened().submit(double, 1).result(PATIENCE_S) == 2


def test_needs_that_no_node_has_yet_hold_up_nothing_else(opened: Open, running: FarmProcess, script: Script) -> None:
    session = opened()
    waiting = session.options(needs=["quern"]).submit(double, 1)
    assert list(session.map(double, range(300))) == [2 * i for i in range(300)]
    assert not waiting.done()
    node = script.start(
        "import sys\nfrom farmhand.cli.main import main\nsys.argv = ['farmhand', 'join', *sys.argv[1:]]\nmain()",
        running.file.join_line, "--slots", "1", "--capability", "quern", "--name", "miller",
        FARMHAND_HOME=str(script.folder / "home"),
    )  # fmt: skip
    try:
        assert waiting.result(PATIENCE_S) == 2
    finally:
        node.terminate()
        node.communicate(timeout=PATIENCE_S)


def test_higher_priorities_run_first(opened: Open, meeting: Meeting) -> None:
    session = opened()
    busy = [session.submit(arrive, meeting.place, "first") for _ in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    low = [session.options(priority=-5).submit(arrive, meeting.place, "low") for _ in range(100)]
    high = [session.options(priority=5).submit(arrive, meeting.place, "high") for _ in range(2)]
    wait_until(lambda: priorities_sent(session) == {-5, 0, 5}, "the caretaker has sent some of each")
    for visitor in visitors:
        visitor.release()
    words = meeting.words(102)
    wait([*busy, *low, *high], PATIENCE_S)
    # What the node had in hand already, or had asked for, goes first; a loaded machine is late to ask for more.
    assert words[22:] == ["low"] * 80, words


def test_map_at_once_and_lazily(session: Session) -> None:
    assert list(session.map(double, range(1000))) == [2 * i for i in range(1000)]
    assert list(session.map(pow, [2, 3], [3, 2])) == [8, 9]
    assert list(session.map(double, iter(range(300)), buffersize=7)) == [2 * i for i in range(300)]
    with pytest.raises(LookupError, match="second"):
        list(session.map(fail, ["second"]))


def test_callbacks_as_completed_and_wait(session: Session, meeting: Meeting) -> None:
    seen: list[int] = []
    quick = session.submit(double, 1)
    quick.add_done_callback(lambda future: seen.append(future.result()))
    slow = session.submit(arrive, meeting.place, "slow")
    visitor = meeting.wait()
    done, not_done = wait([quick, slow], PATIENCE_S, FIRST_COMPLETED)
    assert (done, not_done) == ({quick}, {slow})
    wait_until(slow.running, "its node has said so")
    assert not slow.cancel()
    order = as_completed([slow, quick], PATIENCE_S)
    assert next(order) is quick
    visitor.release()
    assert next(order).result() == "slow"
    assert seen == [2]


def test_a_callback_submits_and_cancels(session: Session, meeting: Meeting) -> None:
    busy = [session.submit(arrive, meeting.place, i) for i in range(2)]
    visitors = {visitor.word: visitor for visitor in (meeting.wait(), meeting.wait())}
    waiting = [session.submit(double, i) for i in range(50)]
    session._driver.flush()
    made: list[Any] = []
    called = threading.Event()

    def on_done(_future: Any) -> None:
        made.append(session.submit(double, bytes(500_000)))
        made.append([future.cancel() for future in waiting])
        called.set()

    busy[0].add_done_callback(on_done)
    visitors[0].release()
    assert called.wait(PATIENCE_S)
    assert len(made[0].result(PATIENCE_S)) == 1_000_000
    wait(waiting, PATIENCE_S)
    assert all(future.done() for future in waiting), "a future that was cancelled in a callback never ended"
    visitors[1].release()
    assert busy[1].result(PATIENCE_S) == 1
    assert session._driver.open == 0


def test_prints_reach_whoever_is_attached(script: Script, running: FarmProcess, name: str, opened: Open) -> None:
    opened()
    program = """
import sys
from farmhand import Farm

def speak(word):
    print("said", word)

if __name__ == "__main__":
    session = Farm(sys.argv[1], session=sys.argv[2])
    if sys.argv[3:]:
        session.submit(speak, sys.argv[3]).result(30)
        session.detach()
    else:
        print("here", flush=True)
        sys.stdin.readline()
"""
    script.file("program.py", program)
    listener = subprocess.Popen(
        [sys.executable, str(script.folder / "program.py"), running.file.address, name], cwd=script.folder,
        env=script.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert listener.stdin is not None
    assert listener.stdout is not None
    try:
        assert listener.stdout.readline() == "here\n"
        speaker = script.start(program, running.file.address, name, "hay")
        assert "said hay" in speaker.communicate(timeout=PATIENCE_S)[0]
        assert "said hay" in listener.stdout.readline()
        listener.stdin.write("\n")
    finally:
        listener.communicate(timeout=PATIENCE_S)


def test_a_pool_and_joblib_work_on_a_session(session: Session) -> None:
    with farmhand.Pool(farm=session) as pool:
        assert pool.map(double, range(100)) == [2 * i for i in range(100)]
    with joblib.parallel_config(backend="farmhand", farm=session):
        assert joblib.Parallel()(joblib.delayed(double)(i) for i in range(20)) == [2 * i for i in range(20)]
    assert session.state.name == session.name
    assert time.time() - session.state.created < 10 * PATIENCE_S
    assert isinstance(session, Farm)
