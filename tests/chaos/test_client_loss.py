"""A client that dies or freezes: what waits is withdrawn, what runs is stopped or finishes as it was asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.farm import PATIENCE_S, Client, FarmProcess, frozen, hold, wait_until
from tests.chaos.history import Effects
from tests.chaos.meeting import PathMeeting
from tests.chaos.work import visit

from farmhand import Farm
from farmhand.model import limits

Measured = Callable[[str, float, float], None]

BUSY = """
farm = Farm(sys.argv[1], on_client_loss=sys.argv[4], output=False)
running = [farm.submit(visit_twice, sys.argv[2], i) for i in range(2)]
waiting = [farm.submit(effect, i, sys.argv[3]) for i in range(500)]
say("submitted")
sys.stdin.read() if len(sys.argv) < 6 else None
say([f.result()[0] for f in running], sum(f.result() for f in waiting))
farm.shutdown()
say("bye")
"""


def sessions(farm: Farm) -> set[str]:
    return {session["session"] for session in farm.status()["sessions"]}


def test_a_killed_client_loses_its_work_and_nobody_else_does(home: Path, effects: Effects, measured: Measured) -> None:
    with (
        FarmProcess(home) as running,
        Farm(running.file.address) as other,
        PathMeeting() as mine,
        PathMeeting() as meeting,
    ):
        with Client(BUSY, running.file.address, meeting.path, effects.folder, "kill") as client:
            visitors = [meeting.wait(), meeting.wait()]
            assert client.line() == "submitted"
            futures = [other.submit(visit, mine.path, i) for i in range(4)]  # behind the other's, on both slots
            client.kill()
        began = time.monotonic()
        for visitor in visitors:
            visitor.wait_gone()
        measured("its running tasks were killed after", time.monotonic() - began, 5.0)
        for _ in futures:
            mine.wait().release()
        measured("another client's tasks ran after", time.monotonic() - began, 5.0)
        assert [future.result(PATIENCE_S)[0] for future in futures] == [0, 1, 2, 3]
        wait_until(lambda: sessions(other) == {other.session}, "the session has ended")
        measured("all was withdrawn after", time.monotonic() - began, 5.0)
        wait_until(lambda: other.status()["engine"]["storage"]["work"]["messages"] == 0, "the last one is acknowledged")
        assert not effects.count(), "a withdrawn task ran"


def test_running_tasks_finish_when_the_client_asked_for_it(home: Path, effects: Effects) -> None:
    with FarmProcess(home) as running, Farm(running.file.address) as other, PathMeeting() as meeting:
        with Client(BUSY, running.file.address, meeting.path, effects.folder, "finish") as client:
            visitors = [meeting.wait(), meeting.wait()]
            assert client.line() == "submitted"
            client.kill()
        wait_until(lambda: sessions(other) == {other.session}, "the session has ended")
        for visitor in visitors:
            visitor.release()
        assert {meeting.wait().word, meeting.wait().word} == {("finished", 0), ("finished", 1)}
        wait_until(lambda: other.status()["engine"]["storage"]["work"]["messages"] == 0, "they are acknowledged")
        assert not effects.count(), "a withdrawn task ran"


def test_a_client_that_was_killed_with_the_steward_and_the_engine_is_noticed_too(
    home: Path, effects: Effects, measured: Measured
) -> None:
    with FarmProcess(home) as running, Farm(running.file.address) as other, PathMeeting() as meeting:
        with Client(BUSY, running.file.address, meeting.path, effects.folder, "kill") as client:
            visitors = [meeting.wait(), meeting.wait()]
            assert client.line() == "submitted"
            victims = [running.one("steward"), running.one("engine")]
            for victim in victims:
                victim.kill()
            client.kill()
        began = time.monotonic()
        for visitor in visitors:
            visitor.wait_gone()
        print(f"its running tasks were killed {time.monotonic() - began:.2f} s after steward, engine and client")
        wait_until(lambda: sessions(other) == {other.session}, "the session has ended")
        wait_until(lambda: other.status()["engine"]["storage"]["work"]["messages"] == 0, "its work is withdrawn")
        assert not effects.count(), "a withdrawn task ran"


def test_a_frozen_client_is_not_taken_for_dead(home: Path, effects: Effects) -> None:
    with FarmProcess(home) as running, PathMeeting() as meeting:
        with Client(BUSY, running.file.address, meeting.path, effects.folder, "kill", "go on") as client:
            visitors = [meeting.wait(), meeting.wait()]
            assert client.line() == "submitted"
            with frozen(client.psutil):
                hold(limits.SESSION_GONE_S + limits.NODE_SILENCE_S)
                for visitor in visitors:
                    visitor.release()
            assert client.line() == f"[0, 1] {sum(range(500))}"
            assert client.line() == "bye"
        assert set(effects.count().values()) == {1}
