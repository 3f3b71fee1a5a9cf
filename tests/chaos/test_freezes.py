"""SIGSTOP: a frozen node is replaced and comes back as a new one; a frozen steward, engine or client is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.farm import PATIENCE_S, FarmProcess, frozen, hold, node_of, wait_until
from tests.chaos.meeting import PathMeeting
from tests.chaos.work import number, visit

from farmhand import Farm
from farmhand.model import limits

Measured = Callable[[str, float, float], None]


def incarnations(farm: Farm) -> dict[int, str]:
    """By the agent's process id."""
    nodes: list[dict[str, Any]] = farm.status()["nodes"]
    return {node["pid"]: node["incarnation"] for node in nodes}


def both_nodes_work(farm: Farm) -> bool:
    """Two tasks that run at the same time need both nodes of one slot each."""
    with PathMeeting() as meeting:
        futures = [farm.submit(visit, meeting.path, word) for word in ("c", "d")]
        visitors = [meeting.wait(), meeting.wait()]
        agents = {node_of(visitor.pid).pid for visitor in visitors}
        for visitor in visitors:
            visitor.release()
        return len(agents) == 2 and all(future.result(PATIENCE_S) for future in futures)


def test_a_node_frozen_beyond_the_lease(home: Path, measured: Measured) -> None:
    with FarmProcess(home, nodes=(1, 1)) as running, Farm(running.file.address) as farm, PathMeeting() as meeting:
        futures = {word: farm.submit(visit, meeting.path, word) for word in ("a", "b")}
        late, other = meeting.wait(), meeting.wait()
        node = node_of(late.pid)
        before = incarnations(farm)
        other.release()  # there is room for what is lost
        assert futures[other.word].result(PATIENCE_S)[0] == other.word
        with frozen(node):
            began = time.monotonic()
            again = meeting.wait()
            measured("work of a frozen node runs again after", time.monotonic() - began, 5.0)
            assert again.word == late.word
            late.release()  # its slot ends the task; nobody hears of it yet
        wait_until(lambda: incarnations(farm).get(node.pid, before[node.pid]) != before[node.pid], "a new incarnation")
        assert not futures[late.word].done(), "the late outcome counted"
        again.release()
        assert futures[late.word].result(PATIENCE_S) == (late.word, again.pid)
        assert both_nodes_work(farm)
        print(f"{farm._driver.core.counts}")


def test_a_frozen_steward(home: Path) -> None:
    with FarmProcess(home, nodes=(1, 1)) as running, Farm(running.file.address) as farm, PathMeeting() as meeting:
        futures = {word: farm.submit(visit, meeting.path, word) for word in ("a", "b")}
        late, other = meeting.wait(), meeting.wait()
        other.release()
        before = incarnations(farm)
        with frozen(running.one("steward")):
            assert list(farm.map(number, range(500))) == list(range(500))  # nobody misses it
            node_of(late.pid).kill()
            late.wait_gone()
            hold(limits.NODE_SILENCE_S)
        again = meeting.wait()
        again.release()
        assert [futures[word].result(PATIENCE_S)[0] for word in ("a", "b")] == ["a", "b"]
        wait_until(lambda: len(incarnations(farm)) == 2, "both nodes")
        kept = set(before.values()) & set(incarnations(farm).values())
        assert len(kept) == 1, "the living node was taken for dead"


def test_a_frozen_engine(home: Path) -> None:
    with FarmProcess(home, nodes=(1, 1)) as running, Farm(running.file.address) as farm:
        wait_until(lambda: len(incarnations(farm)) == 2, "both nodes")
        before = incarnations(farm)
        engine = running.one("engine")
        with frozen(engine):
            futures = [farm.submit(number, i) for i in range(500)]
            hold(limits.PING_INTERVAL_S * (limits.PINGS_OUT_MAX + 1) + 1.0)  # everybody has given the connection up
        assert [future.result(PATIENCE_S) for future in futures] == list(range(500))
        assert running.one("engine").pid == engine.pid
        wait_until(lambda: set(incarnations(farm).values()) == set(before.values()), "the nodes are who they were")
