"""Slots that die under a task: three runs, then an error that says how; everybody else's work goes on."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
from tests.integration.executor.meeting import PATIENCE_S, Meeting, knock
from tests.integration.executor.tally import Tally

from farmhand import Farm, errors
from farmhand.model import limits

MB = 1024 * 1024


def by_exit(code: int) -> None:
    os._exit(code)


def by_signal(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(PATIENCE_S)  # until the signal arrives


def by_null_pointer(_: int) -> None:
    ctypes.string_at(0)


def by_abort(_: int) -> None:
    os.abort()


def by_closing_all(_: int) -> None:
    os.closerange(3, 100)
    time.sleep(PATIENCE_S)  # the agent notices by the end of the pipe, or this process by its own


def poison(tally: Tally, last_words: str, kill: Callable[[int], None], argument: int) -> None:
    tally.add()
    ballast = bytearray(80 * MB)
    print(last_words)
    os.write(2, b"last words by hand\n")
    kill(argument)
    print(len(ballast))


@pytest.fixture(autouse=True)
def usable_afterwards(farm: Farm) -> Iterator[None]:
    yield
    assert [f.result(PATIENCE_S) for f in [farm.submit(abs, -i) for i in range(20)]] == list(range(20))


@pytest.mark.parametrize(
    ("kill", "argument", "code", "number"),
    [
        (by_exit, 3, 3, None),
        (by_exit, 0, 0, None),
        (by_signal, signal.SIGKILL, None, signal.SIGKILL),
        (by_signal, signal.SIGTERM, None, signal.SIGTERM),
        (by_null_pointer, 0, None, signal.SIGSEGV),
        (by_abort, 0, None, signal.SIGABRT),
    ],
    ids=["exit 3", "exit 0", "SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT"],
)
def test_a_crash_is_an_error_after_three_runs(
    farm: Farm, tally: Tally, kill: Callable[[int], None], argument: int, code: int | None, number: int | None
) -> None:
    error = farm.options(name="poisonous").submit(poison, tally, "adieu", kill, argument).exception(PATIENCE_S)
    assert isinstance(error, errors.TaskCrashed)
    assert isinstance(error, BrokenProcessPool), "what a process pool would raise"
    assert tally.count == limits.DEATHS_MAX == error.attempt
    assert (error.exit_code, error.signal) == (code, number)
    assert 80 * MB < error.peak_memory < 1000 * MB
    assert "adieu" in error.tail
    assert "last words by hand" in error.tail
    assert error.node
    assert error.slot in (0, 1)
    text = f"{error}\n" + "\n".join(error.__notes__)
    assert "poisonous" in text
    assert f"node {error.node}, slot {error.slot}, attempt 3" in text
    assert "adieu" in text


def test_a_segmentation_fault_says_where(farm: Farm) -> None:
    error = farm.submit(by_null_pointer, 0).exception(PATIENCE_S)
    assert isinstance(error, errors.TaskCrashed)
    assert "Segmentation fault" in "\n".join(error.tail)
    assert "by_null_pointer" in "\n".join(error.tail)


def test_a_task_that_closes_every_descriptor(farm: Farm) -> None:
    assert isinstance(farm.submit(by_closing_all, 0).exception(PATIENCE_S), errors.TaskCrashed)


def test_an_argument_or_a_result_that_kills(farm: Farm) -> None:
    assert isinstance(farm.submit(print, DiesWhenUnpickled()).exception(PATIENCE_S), errors.TaskCrashed)
    assert isinstance(farm.submit(DiesWhenPickled).exception(PATIENCE_S), errors.TaskCrashed)


class DiesWhenUnpickled:
    def __reduce__(self) -> Any:
        return os._exit, (7,)


class DiesWhenPickled:
    def __reduce__(self) -> Any:
        os._exit(8)


def test_poison_among_five_hundred(farm: Farm, tally: Tally) -> None:
    def work(i: int) -> int:
        if i == 250:
            tally.add()
            os._exit(1)
        return i

    assert list(farm.map(work, range(200))) == list(range(200)), "from now on they travel in batches"
    futures = [farm.submit(work, i) for i in range(500)]
    for i, future in enumerate(futures):
        if i == 250:
            assert isinstance(future.exception(PATIENCE_S), errors.TaskCrashed)
        else:
            assert future.result(PATIENCE_S) == i
    assert tally.count == limits.DEATHS_MAX


def test_several_poisons_at_once(farm: Farm) -> None:
    def work(i: int) -> int:
        if i % 40 == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    futures = [farm.submit(work, i) for i in range(160)]
    for i, future in enumerate(futures):
        if i % 40 == 7:
            assert isinstance(future.exception(PATIENCE_S), errors.TaskCrashed)
        else:
            assert future.result(PATIENCE_S) == i


def test_retries_for_crashes_are_the_users_choice(farm: Farm, tally: Tally) -> None:
    from farmhand import Retry

    def settles() -> int:
        if tally.add() < 5:
            os._exit(1)
        return tally.count

    view = farm.options(retries=Retry(max=10, delay=0.001, on=("crash",)))
    assert view.submit(settles).result(PATIENCE_S) == 5


def test_more_memory_than_granted(farm: Farm, tally: Tally) -> None:
    def hog() -> None:
        tally.add()
        print("filling up")
        ballast = [bytes(range(256)) * 4096 for _ in range(400)]
        time.sleep(PATIENCE_S)
        print(len(ballast))

    error = farm.options(needs=["mem=200MiB"]).submit(hog).exception(PATIENCE_S)
    assert isinstance(error, errors.TaskOutOfMemory)
    assert isinstance(error, MemoryError)
    assert error.peak_memory > 200 * MB
    assert "filling up" in error.tail
    assert tally.count == 1, "its own fault: no second run unless asked for"
    assert farm.options(needs=["mem=200MiB"]).submit(abs, -1).result(PATIENCE_S) == 1


def test_memory_of_child_processes_counts(farm: Farm) -> None:
    def hog() -> None:
        subprocess.run(
            [sys.executable, "-c", f"x = b'x' * {300 * MB}; import time; time.sleep({PATIENCE_S})"], check=False
        )

    error = farm.options(needs=["mem=250MiB"]).submit(hog).exception(PATIENCE_S)
    assert isinstance(error, errors.TaskOutOfMemory), repr(error)


def test_what_a_dead_slot_leaves_is_killed_too(farm: Farm, meeting: Meeting) -> None:
    place = meeting.place
    child = f"import sys; sys.path[:] = {sys.path!r}; from tests.integration.executor.meeting import arrive; arrive({place!r}, 'child')"

    def leave_and_die() -> None:
        subprocess.Popen([sys.executable, "-c", child])
        subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
        with knock(place, "parent") as sock:
            sock.recv(1)
        os._exit(1)

    future = farm.submit(leave_and_die)
    for _ in range(limits.DEATHS_MAX):
        visitors = [meeting.wait() for _ in range(3)]
        assert sorted(v.word for v in visitors) == ["child", "child", "parent"]
        next(v for v in visitors if v.word == "parent").release()
        for visitor in visitors:
            visitor.wait_gone()
    assert isinstance(future.exception(PATIENCE_S), errors.TaskCrashed)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt what others leave")
def test_a_daemon_is_killed_with_its_slot(farm: Farm, meeting: Meeting) -> None:
    place = meeting.place

    def daemonize_and_die() -> None:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                with knock(place, "daemon") as sock:
                    sock.recv(1)
            os._exit(0)
        os.wait()
        with knock(place, "task") as sock:
            sock.recv(1)
        os._exit(1)

    future = farm.submit(daemonize_and_die)
    for _ in range(limits.DEATHS_MAX):
        visitors = [meeting.wait() for _ in range(2)]
        next(v for v in visitors if v.word == "task").release()
        for visitor in visitors:
            visitor.wait_gone()
    assert isinstance(future.exception(PATIENCE_S), errors.TaskCrashed)


def test_a_slot_killed_from_outside_only_costs_another_run(farm: Farm, meeting: Meeting, tally: Tally) -> None:
    place = meeting.place

    def work() -> int:
        runs = tally.add()
        with knock(place) as sock:
            sock.recv(1)
        return runs

    future = farm.submit(work)
    visitor = meeting.wait()
    os.kill(visitor.pid, signal.SIGKILL)
    visitor.wait_gone()
    meeting.wait().release()
    assert future.result(PATIENCE_S) == 2


def test_idle_slots_killed_from_outside_come_back(farm: Farm) -> None:
    before = {f.result(PATIENCE_S) for f in [farm.submit(os.getpid) for _ in range(50)]}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert {f.result(PATIENCE_S) for f in [farm.submit(os.getpid) for _ in range(50)]}.isdisjoint(before)
