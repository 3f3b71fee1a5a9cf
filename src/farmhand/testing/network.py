"""What happens to messages between a process and the engine.

A connection keeps the order of what it carries and loses nothing, until it is cut: then messages vanish, or they wait and
come late. Core messages (heartbeats, notices, orders) may also be lost, doubled and overtaken without a cut, which is
harsher than the engine is, because nothing may depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farmhand.testing.actor import Actor
    from farmhand.testing.world import World


class Network:
    """See the head of this file. `loss` and `late` are shares of core messages."""

    def __init__(self, world: World, rng: Random) -> None:
        self.loss = rng.choice((0.0, 0.0, 0.02, 0.2))
        self.late = rng.choice((0.0, 0.02, 0.2))
        self.answer_loss = rng.choice((0.0, 0.0, 0.05, 0.3))  # of answers to stored publishes
        self._slow = rng.choice((0.001, 0.001, 0.02))
        self._world = world
        self._random = rng.random

    def heal(self) -> None:
        """From now on nothing is lost."""
        self.loss = self.late = self.answer_loss = 0.0

    @property
    def well(self) -> bool:
        """Nothing is lost."""
        return not (self.loss or self.late or self.answer_loss)

    def lose_answer(self) -> bool:
        """Whether the engine's answer to a stored publish gets lost."""
        return self.answer_loss > 0 and self._random() < self.answer_loss

    def up(self, actor: Actor, action: Callable[..., None], args: tuple[Any, ...], *, core: bool = False) -> None:
        """A message from a process to the engine."""
        if actor.cut_up:
            if actor.held is not None:
                actor.held.append((True, action, args))
            return
        engine = self._world.engine
        if not engine.up:
            return
        for delay in self._delays() if core else (self._random() * self._slow,):
            when = self._world.schedule.now + delay
            if not core:
                actor.sent_at = when = max(actor.sent_at, when)
            self._world.schedule.at(when, self._arrive_up, engine.epoch, action, args)

    def _arrive_up(self, epoch: int, action: Callable[..., None], args: tuple[Any, ...]) -> None:
        engine = self._world.engine
        if engine.up and engine.epoch == epoch:
            action(*args)

    def down(self, actor: Actor, action: Callable[..., None], args: tuple[Any, ...], *, core: bool = False) -> None:
        """A message from the engine to a process."""
        if not actor.alive:
            return
        if actor.cut_down:
            if actor.held is not None:
                actor.held.append((False, action, args))
            return
        for delay in self._delays() if core else (self._random() * self._slow,):
            when = self._world.schedule.now + delay
            if not core:
                actor.received_at = when = max(actor.received_at, when)
            self._world.schedule.at(when, self._arrive_down, actor, (actor.life, actor.connection), action, args)

    def _arrive_down(
        self, actor: Actor, meant: tuple[int, int], action: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        if meant == (actor.life, actor.connection):
            actor.fire(actor.life, action, args)

    def _delays(self) -> tuple[float, ...]:
        """When the copies of a core message arrive."""
        delay = self._random() * self._slow
        if self.loss and self._random() < self.loss:
            return ()
        if self.late and self._random() < self.late:
            return (delay + 2.0 * self._random(),) if self._random() < 0.5 else (delay, delay + self._random())
        return (delay,)

    # ---- cuts

    def cut(self, actor: Actor, *, up: bool, down: bool, held: bool) -> None:
        """Cut a process off; `held` means that messages wait for the end of the cut."""
        actor.cut_up, actor.cut_down = up, down
        actor.held = [] if held else None
        self._world.log("%s is cut off (%s)", actor.name, "messages wait" if held else "messages are lost")

    def mend(self, actor: Actor) -> None:
        """End a cut: waiting messages arrive; or the process connects anew."""
        if not (actor.cut_up or actor.cut_down):
            return
        actor.cut_up = actor.cut_down = False
        waiting, actor.held = actor.held, None
        self._world.log("%s is connected again", actor.name)
        if waiting is None:
            self.reconnect(actor)
            return
        for is_up, action, args in waiting:
            if is_up:
                self.up(actor, action, args)
            else:
                self.down(actor, action, args)

    def reconnect(self, actor: Actor) -> None:
        """The process finds its connection closed and makes another."""
        if not actor.alive:
            return
        actor.connection += 1
        self._world.schedule.after(0.3 * self._random(), self._connected, actor, actor.life, actor.connection)

    def _connected(self, actor: Actor, life: int, connection: int) -> None:
        if (life, connection) != (actor.life, actor.connection):
            return
        if actor.cut_up or actor.cut_down or not self._world.engine.up:
            self._world.schedule.after(0.2, self._connected, actor, life, connection)
        else:
            actor.fire(life, actor.on_connected, ())
