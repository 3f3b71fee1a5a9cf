"""Slots that could not be started: tried again, unless they are not wanted by then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from farmhand.engine.options import Options
from farmhand.model import limits
from farmhand.model.address import parse_address
from farmhand.model.outcome import Kind, Mark
from farmhand.node.agent import Agent
from farmhand.node.config import Config
from farmhand.node.slotproc import SlotProcess

SPARE = 1  # of a node with one slot


class NoMemory:
    """Makes slots of which the first cannot be started. Those that can need no process for what is looked at here."""

    def __init__(self) -> None:
        self.started: list[SlotProcess] = []
        self.tries = 0

    def __call__(self, *args: Any) -> SlotProcess:
        makes = self

        class Slot(SlotProcess):
            async def start(self) -> None:
                makes.tries += 1
                if makes.tries == 1:
                    raise OSError("no memory")
                makes.started.append(self)

        return Slot(*args)


Test = Callable[[Agent, NoMemory], Coroutine[Any, Any, None]]


@pytest.fixture
def with_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Test], None]:
    monkeypatch.setattr(limits, "SLOT_RESTART_MAX_S", 0.0)

    def run(test: Test) -> None:
        async def main() -> None:
            makes = NoMemory()
            options = Options(address=parse_address("nats://127.0.0.1:4222"), name="", inbox="")
            config = Config(
                node="n", name="n", slots=1, cache=tmp_path, spool=tmp_path, capabilities={}, options=options
            )
            await test(Agent(config, makes), makes)

        asyncio.run(main())

    return run


async def due(agent: Agent) -> None:
    """Everything that was to be done by now has been done."""
    passed = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.0, passed.set_result, None)
    await passed
    await asyncio.gather(*agent._tasks)


def give_up(agent: Agent) -> None:
    """As when it could not be put into an environment."""
    agent.holder.on_slot_lost(SPARE, -1, Mark(0, Kind.RETURNED), 0.0, stillborn=True)


def test_a_slot_is_tried_again(with_agent: Callable[[Test], None]) -> None:
    async def test(agent: Agent, makes: NoMemory) -> None:
        assert not await agent.start_slot(0)
        await due(agent)
        assert makes.started == [agent.slots[0]]

    with_agent(test)


def test_a_spare_is_tried_again_while_it_is_wanted(with_agent: Callable[[Test], None]) -> None:
    async def test(agent: Agent, makes: NoMemory) -> None:
        agent.holder.lending.spares[SPARE] = 0.0
        assert not await agent.start_slot(SPARE)
        await due(agent)
        assert makes.started == [agent.slots[SPARE]]

    with_agent(test)


def test_a_spare_that_was_given_up_is_not_tried_again(with_agent: Callable[[Test], None]) -> None:
    async def test(agent: Agent, makes: NoMemory) -> None:
        agent.holder.lending.spares[SPARE] = 0.0
        assert not await agent.start_slot(SPARE)
        give_up(agent)
        await due(agent)
        assert makes.tries == 1

    with_agent(test)


def test_a_spare_whose_number_another_one_has_is_not_tried_again(with_agent: Callable[[Test], None]) -> None:
    async def test(agent: Agent, makes: NoMemory) -> None:
        agent.holder.lending.spares[SPARE] = 0.0
        assert not await agent.start_slot(SPARE)
        give_up(agent)
        agent.holder.lending.spares[SPARE] = 0.0
        assert await agent.start_slot(SPARE)
        await due(agent)
        assert makes.started == [agent.slots[SPARE]], "a process that nobody knows of"

    with_agent(test)


def test_nothing_is_started_by_a_node_that_leaves(with_agent: Callable[[Test], None]) -> None:
    async def test(agent: Agent, makes: NoMemory) -> None:
        assert not await agent.start_slot(0)
        agent.holder.on_leave()
        await due(agent)
        assert makes.tries == 1

    with_agent(test)
