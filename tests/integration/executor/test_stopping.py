"""Stopping: `kill`, time limits, retries."""

from __future__ import annotations

import concurrent.futures as cf
import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from tests.integration.executor.meeting import PATIENCE_S, Meeting, Place, arrive, knock
from tests.integration.executor.tally import Tally
from tests.integration.executor.test_contract import wait_running

from farmhand import Farm, Retry, errors

CHILD = "import sys; sys.path[:] = {path!r}; from tests.integration.executor.meeting import arrive; arrive({place!r}, 'child')"


def family(place: Place) -> None:
    """A task with a child, a child of that in a session of its own, and a wait that never ends."""
    code = CHILD.format(path=sys.path, place=place)
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], start_new_session=True)"
    subprocess.Popen([sys.executable, "-c", inner])
    with knock(place, "task") as sock:
        sock.recv(1)


def test_kill_stops_a_running_task_with_its_processes(farm: Farm, meeting: Meeting) -> None:
    future = farm.submit(family, meeting.place)
    visitors = [meeting.wait(), meeting.wait()]
    assert {v.word for v in visitors} == {"task", "child"}
    processes = [psutil.Process(v.pid) for v in visitors]
    wait_running(future)
    assert future.kill(PATIENCE_S) is True
    for visitor in visitors:
        visitor.wait_gone()
    assert psutil.wait_procs(processes, PATIENCE_S)[1] == []
    with pytest.raises(errors.TaskKilled):
        future.result(PATIENCE_S)
    with pytest.raises(cf.CancelledError):
        future.result(PATIENCE_S)
    assert future.done()
    assert future.kill() is True, "it was stopped, and stays so"
    assert farm.submit(abs, -1).result(PATIENCE_S) == 1


def test_kill_of_a_waiting_task_is_a_cancel(farm: Farm, meeting: Meeting, tally: Tally) -> None:
    blockers = [farm.submit(arrive, meeting.place) for _ in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    waiting = farm.submit(tally.add)
    assert waiting.kill() is True
    assert waiting.cancelled()
    for visitor in visitors:
        visitor.release()
    cf.wait(blockers, PATIENCE_S)


def test_kill_of_a_finished_task_changes_nothing(farm: Farm) -> None:
    future = farm.submit(abs, -1)
    assert future.result(PATIENCE_S) == 1
    assert future.kill() is False
    assert future.result() == 1
    failed = farm.submit(abs, "x")
    assert isinstance(failed.exception(PATIENCE_S), TypeError)
    assert failed.kill() is False


def test_kill_at_any_moment_ends_the_task(farm: Farm, meeting: Meeting) -> None:
    """Also in the moments between the submission, the arrival at the slot and the start."""
    place = meeting.place
    for round_ in range(60):
        future = farm.submit(arrive, place)
        for _ in range(round_ * 40):
            pass
        assert future.kill(PATIENCE_S) is True
        assert future.done()
    assert [f.result(PATIENCE_S) for f in [farm.submit(abs, -i) for i in range(10)]] == list(range(10))


def test_cancel_at_any_moment_frees_the_slot(farm: Farm, meeting: Meeting) -> None:
    place = meeting.place
    for round_ in range(60):
        future = farm.submit(arrive, place)
        for _ in range(round_ * 40):
            pass
        if not future.cancel():
            assert future.kill(PATIENCE_S) is True
        assert future.done()
    assert [f.result(PATIENCE_S) for f in [farm.submit(abs, -i) for i in range(10)]] == list(range(10))


def test_others_of_the_batch_survive_a_kill(farm: Farm, meeting: Meeting) -> None:
    place = meeting.place

    def work(i: int) -> int:
        if i == 30:
            arrive(place)
        return i

    assert list(farm.map(work, [0] * 300)) == [0] * 300, "from now on they travel in batches"
    futures = [farm.submit(work, i) for i in range(60)]
    visitor = meeting.wait()
    wait_running(futures[30])
    assert futures[30].kill(PATIENCE_S) is True
    visitor.wait_gone()
    for i, future in enumerate(futures):
        if i != 30:
            assert future.result(PATIENCE_S) == i


def test_a_time_limit_counts_from_the_start_of_the_run(farm: Farm, meeting: Meeting) -> None:
    blockers = [farm.submit(arrive, meeting.place) for _ in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    limited = farm.options(timeout=0.5, name="limited")
    patient = [limited.submit(abs, -i) for i in range(4)]
    endless = limited.submit(arrive, meeting.place, "endless")
    done, _ = cf.wait([*patient, endless], timeout=1.0)  # twice its limit, in the queue
    assert not done
    for visitor in visitors:
        visitor.release()
    assert [f.result(PATIENCE_S) for f in patient] == [0, 1, 2, 3]
    visitor = meeting.wait()
    error = endless.exception(PATIENCE_S)
    assert isinstance(error, errors.TaskTimedOut)
    assert isinstance(error, TimeoutError)
    assert "limited" in str(error)
    assert "0.5 s" in str(error)
    visitor.wait_gone()
    cf.wait(blockers, PATIENCE_S)


def test_each_task_of_a_batch_has_its_own_limit(farm: Farm) -> None:
    limited = farm.options(timeout=0.25)
    assert list(limited.map(abs, range(300))) == list(range(300)), "from now on they travel in batches"
    naps = [limited.submit(time.sleep, 0.02) for _ in range(60)]
    assert [f.result(PATIENCE_S) for f in naps] == [None] * 60


def test_a_busy_loop_and_one_that_holds_the_interpreter_time_out(farm: Farm) -> None:
    def spin() -> None:
        while True:
            pass

    def hold() -> None:
        sum(range(10**12))

    limited = farm.options(timeout=0.2)
    for fn in (spin, hold):
        assert isinstance(limited.submit(fn).exception(PATIENCE_S), errors.TaskTimedOut)


def test_retries_until_it_works(farm: Farm, tally: Tally) -> None:
    def third_time_lucky() -> int:
        if tally.add() < 3:
            raise OSError("try again")
        return tally.count

    view = farm.options(retries=Retry(max=5, delay=0.01))
    assert view.submit(third_time_lucky).result(PATIENCE_S) == 3


def test_retries_are_exhausted(farm: Farm, tally: Tally) -> None:
    def never() -> None:
        raise OSError(tally.add())

    view = farm.options(retries=Retry(max=2, delay=0.001))
    error = view.submit(never).exception(PATIENCE_S)
    assert isinstance(error, OSError)
    assert error.args == (3,)
    assert tally.count == 3
    assert "attempt 3" in "\n".join(error.__notes__)


def test_retries_only_for_the_causes_asked_for(farm: Farm, tally: Tally) -> None:
    def fail() -> None:
        tally.add()
        raise OSError

    assert isinstance(farm.options(retries=Retry(max=3, on=("timeout",))).submit(fail).exception(PATIENCE_S), OSError)
    assert tally.count == 1


def test_retries_after_a_time_out(farm: Farm, tally: Tally) -> None:
    def slow_at_first() -> int:
        runs = tally.add()
        if runs < 3:
            time.sleep(PATIENCE_S)
        return runs

    view = farm.options(timeout=0.2, retries=Retry(max=3, delay=0.001, on=("timeout",)))
    assert view.submit(slow_at_first).result(PATIENCE_S) == 3


def test_the_pause_before_a_retry_grows(farm: Farm, tmp_path: Path) -> None:
    def fail(log: Path) -> None:
        with log.open("a") as file:
            file.write(f"{time.monotonic()}\n")
        raise OSError

    view = farm.options(retries=Retry(max=3, delay=0.1, factor=3.0))
    assert isinstance(view.submit(fail, tmp_path / "log").exception(PATIENCE_S), OSError)
    times = [float(line) for line in (tmp_path / "log").read_text().split()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) == 3
    assert all(gap >= 0.075 * 3**i for i, gap in enumerate(gaps)), gaps


def test_a_task_in_its_pause_can_be_cancelled(farm: Farm, tally: Tally) -> None:
    def fail() -> None:
        tally.add()
        raise OSError

    future = farm.options(retries=Retry(max=3, delay=3600.0, delay_max=3600.0)).submit(fail)
    while farm._driver.core._backoff == []:
        assert not future.done()
    assert not future.running()
    assert future.cancel()
    assert future.cancelled()
    assert tally.count == 1


def test_shutdown_can_cancel_what_is_in_its_pause(tally: Tally) -> None:
    def fail() -> None:
        tally.add()
        raise OSError

    farm = Farm(max_workers=1, output=False)
    future = farm.options(retries=Retry(max=3, delay=3600.0, delay_max=3600.0)).submit(fail)
    while farm._driver.core._backoff == []:
        assert not future.done()
    farm.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_a_task_that_ran_on_a_lost_slot_can_be_cancelled_while_it_waits(farm: Farm, meeting: Meeting) -> None:
    """It was running, and now it waits again: nothing of its first run may be in the way."""
    first = farm.submit(arrive, meeting.place)
    wait_running(first)
    victim = meeting.wait()
    blocker = farm.submit(arrive, meeting.place)
    other = meeting.wait()
    more = [farm.options(priority=50).submit(arrive, meeting.place) for _ in range(1)]
    psutil.Process(victim.pid).kill()
    visitor = meeting.wait()
    stopped = threading.Event()
    first.add_done_callback(lambda _: stopped.set())
    assert first.cancel() or first.kill(PATIENCE_S)
    assert stopped.wait(PATIENCE_S)
    assert first.done()
    for each in (other, visitor):
        try:
            each.release()
        except OSError:
            assert each is visitor
    cf.wait([blocker], PATIENCE_S)
    for future in more:
        future.kill(PATIENCE_S)


def test_counts_add_up(farm: Farm) -> None:
    counts = farm._driver.core.counts
    before = (counts.submitted, counts.done, counts.failed, counts.cancelled)
    futures = [farm.submit(abs, -1 if i % 4 else "x") for i in range(40)]
    cf.wait(futures, PATIENCE_S)
    after = (counts.submitted, counts.done, counts.failed, counts.cancelled)
    assert after == (before[0] + 40, before[1] + 30, before[2] + 10, before[3])
    assert farm._driver.open == 0
