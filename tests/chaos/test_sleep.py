"""A laptop that sleeps: every process of a farm is stopped, its clients' too, and the clocks are an hour ahead afterwards.

The processes are stopped by SIGSTOP, and the clock that Python reads is put forward (`clock/sitecustomize.py`). So it is on
Windows; on Linux and macOS that clock stands while the machine sleeps, which is the easier case. The engine sees real time, as
after a sleep on Linux, and no connection breaks: `test_cables.py` has those that do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from pathlib import Path

import psutil
import pytest
from tests.chaos.farm import Client, FarmProcess, hold, wait_until
from tests.chaos.meeting import PathMeeting

from farmhand import Farm
from farmhand.model import limits

CLIENT = """
import collections
from farmhand.client.remote import remote_login
counts = collections.Counter()
farm = Farm(sys.argv[1])
def begin():
    watched = farm.options(timeout=30).submit(visit, sys.argv[2], "asleep")
    queued = [farm.submit(number, i) for i in range(300)]
    for future in (watched, *queued):
        future.add_done_callback(lambda future: counts.update([id(future)]))
    return watched, queued
for line in sys.stdin:
    watched, queued = begin()
    say("begun")
    word, pid = watched.result(60)
    assert [future.result(60) for future in queued] == list(range(300))
    assert set(counts.values()) == {1} and len(counts) == 301
    counts.clear()
    say("has all", word, pid)
"""
ORDERS = {
    "the engine first": ("engine", "steward", "node", "slot", "client", "host"),
    "the client first": ("client", "node", "slot", "host", "steward", "engine"),
    "the steward first": ("steward", "client", "host", "slot", "node", "engine"),
}


class Clock:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.ahead = 0.0
        path.write_bytes(struct.pack("d", 0.0))

    def leap(self, seconds: float) -> None:
        self.ahead += seconds
        with self._path.open("r+b") as file:
            file.write(struct.pack("d", self.ahead))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    path = tmp_path / "seconds ahead"
    monkeypatch.setenv("FARMHAND_TEST_CLOCK", str(path))
    monkeypatch.setenv("FARMHAND_UVLOOP", "0")  # uvloop asks the system for the time, past any Python
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).with_name("clock")), prepend=os.pathsep)
    return Clock(path)


def sleep(running: FarmProcess, client: Client, clock: Clock, order: tuple[str, ...], seconds: float) -> None:
    """All stop, an hour passes, and they go on one kind after the other."""
    found: dict[str, list[psutil.Process]] = {
        role: running.processes(role) for role in ("slot", "node", "steward", "engine")
    }
    found |= {"host": [running.host], "client": [client.psutil]}
    everybody = [process for role in order for process in found[role]]
    for process in reversed(everybody):
        process.send_signal(signal.SIGSTOP)
    hold(seconds)
    clock.leap(3600.0)
    for process in everybody:
        process.send_signal(signal.SIGCONT)


def test_the_farm_goes_on_after_an_hour_of_sleep(home: Path, clock: Clock) -> None:
    with contextlib.ExitStack() as stack:
        running, meeting = stack.enter_context(FarmProcess(home, nodes=(1, 1))), stack.enter_context(PathMeeting())
        address = running.file.address
        client = stack.enter_context(Client(CLIENT, address, meeting.path, home=home, stdin=True))
        looking = stack.enter_context(Farm(address))
        wait_until(lambda: len(looking.status()["nodes"]) == 2, "both nodes")
        before = {node["incarnation"] for node in looking.status()["nodes"]}
        session = {each["session"] for each in looking.status()["sessions"]}
        for name, order in ORDERS.items():
            client.say("begin")
            assert client.line() == "begun"
            visitor = meeting.wait()
            sleep(running, client, clock, order, seconds=limits.NODE_SILENCE_S + 0.5 if order[0] == "engine" else 0.5)
            visitor.release()
            assert client.line() == f"has all asleep {visitor.pid}", name  # by the run that slept, and not by another
            assert {node["incarnation"] for node in looking.status()["nodes"]} == before, name
            assert session <= {each["session"] for each in looking.status()["sessions"]}, name
