"""`Farm.current()` in a slot whose agent is this test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from farmhand import Farm, errors
from farmhand.model import limits, messages
from farmhand.model.messages import Profile, Work
from farmhand.model.nested import Event, What
from farmhand.node import parent, slotwire


class Agent:
    """Has what the slot says."""

    def __init__(self, folder: Path, depth: int) -> None:
        self.said: list[tuple[int, bytes]] = []
        self.door = parent.Door(lambda kind, payload: self.said.append((kind, payload)), folder)
        work = Work(messages.PROTOCOL, "s", 1, 1, Profile("f"), depth=depth)
        self.door.begin(work, str(folder / "r"))
        self.door.index = 0

    def tell(self, *events: Event, gone: str = "") -> None:
        self.door.on_frame(slotwire.TOLD, msgspec.msgpack.encode(slotwire.Told(0, 0, events, gone)))


@pytest.fixture
def agent(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    agent = Agent(tmp_path, getattr(request, "param", 0))
    monkeypatch.setattr(parent, "here", agent.door)
    yield agent
    agent.door.end()


@pytest.mark.parametrize("agent", [limits.NESTED_DEPTH_MAX], indirect=True)
def test_too_deep_is_an_error_at_once(agent: Agent) -> None:
    with pytest.raises(errors.NestedTooDeep, match=r"NESTED_DEPTH_MAX = 100: submit from higher up"):
        Farm.current().submit(int)


def test_a_result_that_comes_is_set(agent: Agent) -> None:
    future = Farm.current().submit(int, 5)
    Farm.current().flush()
    agent.tell(Event(1, What.RUNNING, node="n"), Event(1, What.SUCCEEDED, (5,)))
    assert future.result(5.0) == 5
    kinds = [kind for kind, _ in agent.said]
    assert kinds[0] == slotwire.SAY
    assert set(kinds[1:]) <= {slotwire.WAIT}


def test_a_wait_that_is_refused_is_an_error_that_names_the_limit(agent: Agent) -> None:
    future = Farm.current().submit(int, 5)
    agent.door.on_frame(slotwire.REFUSED_WAIT, b"")
    with pytest.raises(errors.TooManyWaiting, match="SPARES_MAX"):
        future.result(5.0)


def test_after_the_task_nothing_can_be_submitted(agent: Agent) -> None:
    farm = Farm.current()
    future = farm.submit(int, 5)
    agent.door.end()
    with pytest.raises(errors.FarmClosed, match="has ended"):
        future.result(5.0)
    with pytest.raises(RuntimeError, match="after the end of their task"):
        farm.submit(int)
