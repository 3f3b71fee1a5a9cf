"""kill -9 of each part while 20,000 tasks run: every future resolves, one outcome each, none lost, no orphan."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.chaos.farm import PATIENCE_S, ROLES, Client, FarmProcess, below, kill_some, node_of, wait_until
from tests.chaos.history import Effects, History
from tests.chaos.meeting import PathMeeting
from tests.chaos.work import effect, number, visit

from farmhand import Farm

TASKS = 20_000
Measured = Callable[[str, float, float], None]


def test_each_part_killed_one_after_another(dice: random.Random, effects: Effects) -> None:
    history = History()
    order = [*ROLES, *ROLES]
    dice.shuffle(order)
    killed: list[str] = []
    with Farm(max_workers=2, nodes=2) as farm:
        host = farm._embedded.pid

        def strike(role: str) -> None:
            if kill_some(host, role, dice):
                killed.append(role)

        for role, outcomes in zip(order, sorted(dice.sample(range(100, TASKS - 500), len(order))), strict=True):
            history.at(outcomes, lambda role=role: strike(role))
        began = time.monotonic()
        for i in range(TASKS):
            history.follow(i, farm.submit(effect, i, effects.folder, 0.0001))
        ran = history.check(effects)
        print(
            f"killed {killed}: {TASKS} tasks in {time.monotonic() - began:.1f} s, {ran.total()} runs, {farm._driver.core.counts}"
        )
    assert len(killed) >= len(order) - 2


def test_everything_killed_at_once(dice: random.Random, effects: Effects, home: Path) -> None:
    history, over, killed = History(), threading.Event(), []

    def rampage(host: int) -> None:
        while not over.wait(dice.uniform(0.05, 0.5)):
            killed.extend(role for role in dice.sample(ROLES, dice.randint(1, 3)) if kill_some(host, role, dice))
            if len(killed) >= 30:
                return

    def other_clients() -> None:
        """Clients that live for a moment."""
        text = "with Farm(sys.argv[1], output=False) as farm:\n  list(farm.map(number, iter(lambda: 1, 0)))"
        while not over.is_set():
            with Client(text, running.file.address):
                over.wait(dice.uniform(0.5, 1.5))
            killed.append("client")

    with FarmProcess(home, nodes=(1, 1)) as running, Farm(running.file.address, output=False) as farm:
        threads = [threading.Thread(target=rampage, args=(running.pid,)), threading.Thread(target=other_clients)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        try:
            for i in range(TASKS):
                history.follow(i, farm.submit(effect, i, effects.folder, 0.0001))
            ran = history.check(effects)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        print(f"{TASKS} tasks in {time.monotonic() - began:.1f} s, {ran.total()} runs, {farm._driver.core.counts}; killed",
              {role: killed.count(role) for role in sorted(set(killed))})  # fmt: skip
        took = wait_until(lambda: len(farm.status()["sessions"]) == 1, "the killed clients' sessions have ended")
        wait_until(lambda: farm.status()["engine"]["storage"]["work"]["messages"] == 0, "their work is withdrawn")
        print(f"nothing of the killed clients was left {took:.1f} s later")


def test_work_of_a_killed_node_runs_elsewhere(measured: Measured) -> None:
    with Farm(max_workers=4, nodes=2) as farm, PathMeeting() as meeting:
        futures = [farm.submit(visit, meeting.path, word) for word in ("a", "b")]
        first, second = meeting.wait(), meeting.wait()
        victim = node_of(first.pid)
        began = time.monotonic()
        victim.kill()
        lost = [visitor for visitor in (first, second) if node_of_or_none(visitor.pid) in (None, victim.pid)]
        again = [meeting.wait() for _ in lost]
        measured("work of a killed node runs again after", time.monotonic() - began, 2.0)
        for visitor in lost:
            visitor.wait_gone()
        measured("its slots were dead after", time.monotonic() - began, 2.0)
        assert {visitor.word for visitor in again} == {visitor.word for visitor in lost}
        for visitor in again:
            visitor.release()
        for visitor in (first, second):
            if visitor not in lost:
                visitor.release()
        assert [future.result(PATIENCE_S)[0] for future in futures] == ["a", "b"]
        assert farm.submit(number, 7).result(PATIENCE_S) == 7


def node_of_or_none(slot_pid: int) -> int | None:
    try:
        return node_of(slot_pid).pid
    except (psutil.Error, AssertionError):
        return None


EMBEDDED = """
farm = Farm(max_workers=2, nodes=2)
say(farm._embedded.pid)
futures = [farm.submit(visit, sys.argv[1], i) for i in (0, 1)]
time.sleep(99)
"""


@pytest.mark.parametrize("victim", ["host", "client"])
def test_a_farm_ends_with_its_supervisor_and_with_its_client(victim: str, meeting: PathMeeting) -> None:
    with Client(EMBEDDED, meeting.path) as client:
        host = int(client.line())
        visitors = [meeting.wait(), meeting.wait()]
        everything = [process for role in ROLES for process in below(host, role)]
        assert len(everything) == 6
        began = time.monotonic()
        if victim == "client":
            client.kill()
        else:
            psutil.Process(host).kill()
        for visitor in visitors:
            visitor.wait_gone()
        _, alive = psutil.wait_procs(everything, timeout=4.0)
        assert not alive
        print(f"all of the farm was gone {time.monotonic() - began:.2f} s after its {victim}'s death")
