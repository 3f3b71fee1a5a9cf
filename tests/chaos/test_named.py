"""Named sessions under fire: what was stored runs to its end whoever dies, each outcome comes once, and all who attach agree."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.farm import PATIENCE_S, Client, FarmProcess, frozen, hold, kill_some, node_of, wait_until
from tests.chaos.history import Effects, History
from tests.chaos.meeting import PathMeeting
from tests.chaos.test_disk import farm_on_a_small_disk, fill, mountable
from tests.chaos.work import add_up, effect, number, visit, visit_and_fail

from farmhand import Farm, Retry, errors
from farmhand.client.session import Session
from farmhand.model.limits import DEATHS_MAX, MB

SUBMIT = """
session = Farm(sys.argv[1], session="night", output=False)
for i in range(int(sys.argv[3])):
    session.submit(effect, i, sys.argv[2])
    if i % 500 == 499:
        say(i + 1)
session._driver.flush()
say("stored")
sys.stdin.read()
"""


@contextmanager
def open_night(running: FarmProcess) -> Iterator[Session]:
    """Attach; a test that fails does not wait for what will never come."""
    session = Farm(running.file.address, session="night", output=False)
    assert isinstance(session, Session)
    try:
        yield session
        session.shutdown()
    finally:
        session._abandon()


@contextmanager
def rampage(running: FarmProcess, roles: tuple[str, ...], dice: random.Random) -> Iterator[list[str]]:
    """Meanwhile kill one process of each of these roles in turn, with pauses. Gives the roles of which one was killed."""
    over, killed = threading.Event(), []

    def kill() -> None:
        for role in roles:
            if over.wait(dice.uniform(0.1, 0.6)):
                return
            if kill_some(running.pid, role, dice):
                killed.append(role)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def values(session: Session) -> list[Any]:
    return [future.result(PATIENCE_S) for future in list(session)]


def test_the_client_is_killed_when_all_is_stored(home: Path, effects: Effects) -> None:
    with FarmProcess(home) as running, PathMeeting() as meeting:
        with open_night(running) as night:
            busy = [night.submit(visit, meeting.path, i) for i in range(2)]
            visitors = [meeting.wait(), meeting.wait()]
            with Client(SUBMIT, running.file.address, effects.folder, "1000") as client:
                while client.line() != "stored":
                    pass
                client.kill()
            assert not effects.count()
            for visitor in visitors:
                visitor.release()
            assert [future.result(PATIENCE_S)[0] for future in busy] == [0, 1]
        with open_night(running) as night:
            assert values(night)[2:] == list(range(1000))
        assert set(effects.count().values()) == {1}


def test_the_client_is_killed_while_it_submits(home: Path, effects: Effects) -> None:
    with FarmProcess(home) as running:
        with Client(SUBMIT, running.file.address, effects.folder, "1000000") as client:
            for _ in range(4):
                client.line()
            client.kill()
        with open_night(running) as night:
            found = values(night)
            assert found == list(range(len(found))), "what was stored is not a beginning of what was submitted"
            wait_until(lambda: night.state.submitted == len(found) and not night.state.open, "nothing comes any more")
            assert len(night) == len(found)
        ran = effects.count()
        assert set(ran) == set(range(len(found)))
        assert set(ran.values()) <= {1}


def test_the_steward_is_killed_again_and_again(home: Path, effects: Effects, dice: random.Random) -> None:
    tasks = 20_000
    with FarmProcess(home) as running, open_night(running) as night, open_night(running) as other:
        history, killed = History(), []

        def strike() -> None:
            killed.append(kill_some(running.pid, "steward", dice))

        for at in sorted(dice.sample(range(100, tasks - 2000), 5)):
            history.at(at, strike)
        for i in range(tasks):
            history.follow(i, night.submit(effect, i, effects.folder))
        ran = history.check(effects)
        assert set(ran.values()) == {1}, "a task ran twice though nothing of its own had died"
        assert len([victim for victim in killed if victim]) >= 2
        wait_until(lambda: len(other) == tasks, "the other has heard of all")
        assert values(other) == list(range(tasks))
        wait_until(lambda: (night.state.done, night.state.open) == (tasks, 0), "the caretaker has counted right")


@pytest.mark.parametrize("crash", [False, True], ids=["raises", "crashes"])
def test_a_new_steward_knows_how_often_a_task_has_failed(home: Path, dice: random.Random, crash: bool) -> None:
    runs = DEATHS_MAX if crash else 5
    with FarmProcess(home) as running, open_night(running) as night, PathMeeting() as meeting:
        view = night.options(retries=0 if crash else Retry(max=runs - 1, delay=0.2, factor=1.0))
        future = view.submit(visit_and_fail, meeting.path, "word", crash=crash)
        for run in range(runs):
            visitor = meeting.wait()
            assert not future.done()
            if run % 2:
                kill_some(running.pid, "steward", dice)
                visitor.release()
            else:
                before = running.one("steward").pid
                visitor.release()
                visitor.wait_gone()
                kill_some(running.pid, "steward", dice)
                wait_until(lambda before=before: running.one("steward").pid != before, "another one")
        error = future.exception(PATIENCE_S)
        assert isinstance(error, errors.TaskCrashed if crash else ValueError)
        assert any(f", attempt {runs} " in note for note in error.__notes__), error.__notes__
        assert night.submit(number, 1).result(PATIENCE_S) == 1


def test_engine_node_and_steward_are_killed_while_tasks_come_and_go(
    home: Path, effects: Effects, dice: random.Random
) -> None:
    tasks, history = 6000, History()
    with FarmProcess(home) as running, open_night(running) as night, open_night(running) as other:
        with rampage(running, ("engine", "node", "steward", "engine", "slot", "node"), dice) as killed:
            for i in range(tasks):
                history.follow(i, night.submit(effect, i, effects.folder, 0.0002))
            ran = history.check(effects)
        print(f"killed {killed}: {tasks} tasks, {ran.total()} runs")
        wait_until(lambda: len(other) == tasks, "each was stored once")
        assert values(other) == values(night) == list(range(tasks))


def test_engine_node_and_steward_are_killed_while_tasks_wait_for_one_another(home: Path, dice: random.Random) -> None:
    width, roles = 60, ("steward", "engine", "node", "steward", "slot", "engine", "steward")
    with FarmProcess(home) as running, open_night(running) as night, open_night(running) as other:
        with rampage(running, roles, dice) as killed:
            rows = [[night.submit(number, i) for i in range(width)]]
            for depth in range(1, 40):
                last = rows[-1]
                rows.append([night.submit(add_up, depth, last[i], last[i - 1]) for i in range(width)])
            expected = list(range(width))
            for row in rows:
                assert [future.result(PATIENCE_S) for future in row] == expected
                expected = [expected[i] + expected[i - 1] for i in range(width)]
        print(f"killed {killed}")
        wait_until(lambda: len(other) == 40 * width, "each was stored once")
        assert values(other) == values(night)
        wait_until(lambda: (night.state.done, night.state.open) == (40 * width, 0), "the caretaker has counted right")


def test_the_engine_and_the_client_die_at_once(home: Path, effects: Effects) -> None:
    with FarmProcess(home) as running:
        with Client(SUBMIT, running.file.address, effects.folder, "1000000") as client:
            for _ in range(3):
                client.line()
            running.one("engine").kill()
            client.kill()
        with open_night(running) as night:
            found = values(night)
            assert found == list(range(len(found)))
            assert night.submit(number, -1).result(PATIENCE_S) == -1
        assert set(effects.count()) == set(range(len(found)))


def test_a_node_dies_with_running_tasks_while_nobody_is_attached(home: Path) -> None:
    with FarmProcess(home) as running, PathMeeting() as meeting:
        with open_night(running) as night:
            night.submit(visit, meeting.path, "long")
            visitor = meeting.wait()
            night.detach()
        node_of(visitor.pid).kill()
        again = meeting.wait()
        visitor.wait_gone()
        again.release()
        with open_night(running) as night:
            assert night[0].result(PATIENCE_S) == ("long", again.pid)


def test_a_frozen_steward_delays_and_loses_nothing(home: Path, effects: Effects) -> None:
    with FarmProcess(home) as running, open_night(running) as night:
        assert night.submit(number, 1).result(PATIENCE_S) == 1
        with frozen(running.one("steward")):
            futures = [night.submit(effect, i, effects.folder) for i in range(2000)]
            assert night._driver.flush(PATIENCE_S), "storing needs no steward"
            hold(3.5)
        assert [future.result(PATIENCE_S) for future in futures] == list(range(2000))
        assert set(effects.count().values()) == {1}


def test_an_unfinished_session_goes_on_after_a_restart_of_the_farm(home: Path, effects: Effects) -> None:
    with PathMeeting() as meeting:
        with FarmProcess(home, max_file_store=2000 * MB) as running, open_night(running) as night:
            for word in ("a", "b"):
                night.submit(visit, meeting.path, word)
            meeting.wait(), meeting.wait()
            for i in range(3000):
                night.submit(effect, i, effects.folder)
            night.detach()
        assert not effects.count()
        # with less space on the disk than before
        with FarmProcess(home, max_file_store=1800 * MB) as running, open_night(running) as night:
            for visitor in (meeting.wait(), meeting.wait()):
                visitor.release()
            found = values(night)
            assert [found[0][0], found[1][0]] == ["a", "b"]
            assert found[2:] == list(range(3000))
            assert set(effects.count().values()) == {1}


@pytest.mark.namespace
@pytest.mark.skipif(not mountable(), reason="needs root to mount a small disk")
def test_the_disk_is_full_while_a_session_runs(home: Path, effects: Effects) -> None:
    with farm_on_a_small_disk(home, 10 * 1024 * MB) as (running, farm, disk), PathMeeting() as meeting:
        night = Farm(str(farm._driver.connection.options.address), session="night", output=False)
        with night:
            visits = [night.submit(visit, meeting.path, i) for i in range(2)]
            visitors = [meeting.wait(), meeting.wait()]
            accepted = [night.submit(effect, i, effects.folder) for i in range(500)]
            assert night._driver.flush(PATIENCE_S)  # type: ignore[attr-defined]
            ballast = disk / "ballast"
            fill(ballast)
            more = submit_until_refused(night, effects.folder, len(accepted))
            for visitor in visitors:
                visitor.release()
            ballast.unlink()
            assert [future.result(PATIENCE_S)[0] for future in visits] == [0, 1]
            assert [future.result(PATIENCE_S) for future in accepted] == list(range(500))
            assert [future.result(PATIENCE_S) for future in more] == list(range(500, 500 + len(more)))
        with night.attach("night") as again:
            assert len(again) == 502 + len(more)
        assert running.one("steward")


def submit_until_refused(night: Farm, folder: str, first: int) -> list[Any]:
    found: list[Any] = []

    def refused() -> bool:
        try:
            found.append(night.submit(effect, first + len(found), folder))
        except errors.EngineFull:
            return True
        return False

    wait_until(refused, "a full engine takes no more")
    return found
