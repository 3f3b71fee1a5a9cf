"""Puts slots into the environments of their tasks, and back into the node's own Python.

A slot is one process after another anyway; one that is in the wrong environment is ended between two messages, without blame,
and its next process runs with another interpreter.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from farmhand import errors
from farmhand.core import holding
from farmhand.model.environment import Recipe
from farmhand.model.outcome import Kind, Mark
from farmhand.node.slotproc import Exit, SlotProcess
from farmhand.node.venvs import Place, Venvs

if TYPE_CHECKING:
    from farmhand.node.agent import Agent

log = logging.getLogger("farmhand.node")

_read_recipe = msgspec.json.Decoder(Recipe).decode


class Dressing:
    """Runs on the agent's loop."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._cache = agent.config.cache
        self._coming: dict[int, Place | None] = {}  # what slots change to at this moment
        self._waiting: set[holding.Held] = set()  # whose environment is being built
        self.venvs = Venvs(self._cache, agent.config.name)

    def fits(self, held: holding.Held) -> bool:
        """Whether its slot's process may run it as it is."""
        slot, wanted = self._agent.slots[held.slots[0]], held.work.profile.environment
        return slot.worn == wanted if wanted else slot.place is None

    async def dress(self, held: holding.Held) -> None:
        """Make its slot one that can run it, unless it is over by then. Raises `EnvironmentFailed`; then the slot is as it was."""
        agent, wanted = self._agent, held.work.profile.environment
        place = await self._place(held, wanted) if wanted else None
        if held.state is not holding.HeldState.RUNNING:
            return
        number = held.slots[0]
        slot = agent.slots[number]
        if slot.place == place:
            slot.worn = wanted
            return
        self._coming[number] = place
        try:
            exit_ = await slot.end()
            if slot.ordered:  # an order came meanwhile, and waits for this death
                agent.on_slot_exit(slot, exit_)
                return
            started = await agent.start_slot(number, place)
        finally:
            del self._coming[number]
        agent.slots[number].worn = wanted
        places = (*(slot.place for slot in agent.slots.values()), *self._coming.values())
        self.venvs.release({place.key for place in places if place is not None})
        if not started:
            kind = Kind.ENVIRONMENT if place else Kind.RETURNED
            mark = Mark(0, kind, f"slot {number} of node {agent.config.name} could not be started in its environment")
            agent.carry_out(agent.holder.on_slot_lost(number, -1, mark, agent.now(), stillborn=True))

    async def _place(self, held: holding.Held, wanted: str) -> Place:
        self._waiting.add(held)
        try:
            data = (self._cache / "blobs" / wanted).read_bytes()
            return await self.venvs.place(_read_recipe(data))
        except (OSError, msgspec.MsgspecError) as error:
            raise errors.EnvironmentFailed(f"its recipe cannot be read: {error}") from None
        finally:
            self._waiting.discard(held)

    def on_drop(self, held: holding.Held) -> bool:
        """An index of it is not wanted any more. True when none is and its environment is still being built: it need not wait."""
        return held in self._waiting and len(held.dropped) == held.work.count

    def on_exit(self, slot: SlotProcess, exit_: Exit) -> Mark | None:
        """The mark for all of a message whose slot could not even start in its environment; None for every other death.

        A signal says nothing of the environment: somebody or the system sent it, and the next try may do better.
        """
        if slot.place is None or slot.ready or slot.ordered or exit_.signal is not None:
            return None
        text = f"the Python of its environment on node {self._agent.config.name} does not run a slot ({exit_})"
        log.warning("slot %d in environment %s: %s", slot.number, slot.place.key, text)
        text = "\n".join([text, *slot.last_lines()])
        self.venvs.on_failed(slot.place.key, text)
        return Mark(0, Kind.ENVIRONMENT, text, exit_.code)

    def start_collecting(self) -> None:
        """At the agent's start, for what nobody uses any more."""
        if (self._cache / "envs").is_dir():
            self._agent.spawn(self.venvs.collect())
