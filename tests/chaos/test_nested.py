"""Tasks that submit tasks, while what they stand on is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.chaos.farm import PATIENCE_S, Client, FarmProcess, node_of, wait_dead, wait_until
from tests.chaos.meeting import PathMeeting
from tests.chaos.work import visit

from farmhand import Farm, errors
from farmhand.model import limits

Measured = Callable[[str, float, float], None]

PARENT = """
farm = Farm(sys.argv[1], on_client_loss=sys.argv[3], output=False)
future = farm.submit(visit_with_children, sys.argv[2], 1)
say("submitted")
sys.stdin.read()
"""


def grandparent(place: str, levels: int) -> tuple[int, int]:
    """A chain of tasks that wait; the last one visits."""
    if not levels:
        return visit(place, "leaf")
    word, pid = Farm.current().submit(grandparent, place, levels - 1).result()
    return word, pid


def pair(place: str) -> list[str]:
    return [word for word, _ in Farm.current().map(visit, [place] * 2, ["a", "b"])]


def bomb() -> None:
    farm = Farm.current()
    for _ in range(2):
        farm.submit(bomb)


def flood() -> None:
    farm = Farm.current()
    while True:
        farm.submit(int, 1)


def test_killing_a_parent_kills_its_children(home: Path, measured: Measured) -> None:
    with FarmProcess(home, nodes=(1,)) as running, Farm(running.file.address) as farm, PathMeeting() as meeting:
        future = farm.submit(grandparent, meeting.path, 2)
        leaf = meeting.wait()
        assert future.kill(PATIENCE_S)
        began = time.monotonic()
        leaf.wait_gone()
        measured("the last of its children was killed after", time.monotonic() - began, 2.0)
        wait_until(lambda: farm.status()["engine"]["storage"]["work"]["messages"] == 0, "nothing of it is left")
        assert farm.submit(int, 3).result(PATIENCE_S) == 3


def test_a_node_that_dies_under_a_waiting_parent(home: Path) -> None:
    with FarmProcess(home) as running, Farm(running.file.address) as farm, PathMeeting() as meeting:
        future = farm.submit(pair, meeting.path)
        visitors = [meeting.wait(), meeting.wait()]
        for node in {node_of(visitor.pid) for visitor in visitors}:
            node.kill()
        for visitor in visitors:
            visitor.wait_gone()
        again = [meeting.wait(), meeting.wait()]  # the parent has run again, and started its children anew
        for visitor in again:
            visitor.release()
        assert future.result(PATIENCE_S) == ["a", "b"]


def test_the_engine_is_killed_while_parents_wait(home: Path) -> None:
    with FarmProcess(home, nodes=(1,)) as running, Farm(running.file.address) as farm, PathMeeting() as meeting:
        future = farm.submit(grandparent, meeting.path, 2)
        leaf = meeting.wait()
        engine = running.one("engine")
        engine.kill()
        wait_dead(engine)
        leaf.release()
        assert future.result(PATIENCE_S)[0] == "leaf"
        assert meeting.nobody_came(), "a task has run twice"


def test_a_killed_client_takes_parents_and_children_along(home: Path, measured: Measured) -> None:
    with FarmProcess(home, nodes=(1,)) as running, Farm(running.file.address) as other, PathMeeting() as meeting:
        with Client(PARENT, running.file.address, meeting.path, "kill") as client:
            visitors = [meeting.wait()]
            client.kill()
        began = time.monotonic()
        for visitor in visitors:
            visitor.wait_gone()
        measured("all of it was killed after", time.monotonic() - began, 5.0)
        wait_until(lambda: other.status()["engine"]["storage"]["work"]["messages"] == 0, "nothing of it is left")
        assert other.submit(int, 3).result(PATIENCE_S) == 3


def test_a_parent_whose_client_is_gone_and_that_may_finish_hears_that_nothing_comes(home: Path) -> None:
    with FarmProcess(home, nodes=(1,)) as running, Farm(running.file.address) as other, PathMeeting() as meeting:
        with Client(PARENT, running.file.address, meeting.path, "finish") as client:
            child = meeting.wait()
            client.kill()
        child.release()
        assert meeting.wait().word == ("heard", "FarmClosed")
        wait_until(lambda: other.status()["engine"]["storage"]["work"]["messages"] == 0, "it is finished with")


def test_bombs_are_bounded(home: Path) -> None:
    with FarmProcess(home, nodes=(1,)) as running, Farm(running.file.address) as farm:
        assert farm.submit(bomb).result(PATIENCE_S) is None  # what nobody waits for ends with who submitted it
        with pytest.raises(errors.TooManyChildren, match=r"NESTED_CHILDREN_MAX = 20,000.*use map"):
            farm.submit(flood).result(PATIENCE_S)
        assert farm.submit(int, 3).result(PATIENCE_S) == 3
        wait_until(lambda: farm.status()["engine"]["storage"]["work"]["messages"] == 0, "nothing of them is left")
        assert limits.NESTED_CHILDREN_MAX == 20_000
