"""What goes wrong in a simulated world, and when: chosen by its seed, and over by `heal`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farmhand.testing.actor import Actor
    from farmhand.testing.world import World


class Faults:
    """Plans faults over the first `span` seconds. `count` of them; 0 for a calm world."""

    def __init__(self, world: World, rng: Random, count: int, span: float) -> None:
        self._world = world
        self._rng = rng
        kinds: list[Callable[[], None]] = [
            self.kill_slot, self.kill_slot, self.kill_node, self.kill_node, self.kill_steward, self.restart_engine,
            self.kill_client, self.freeze, self.freeze, self.cut, self.cut, self.cut, self.fill, self.leave, self.end_session,
            self.kill_reserved, self.mistake_client,
        ]  # fmt: skip
        for _ in range(count):
            world.schedule.at(rng.random() * span, self._happen, rng.choice(kinds))

    def _happen(self, fault: Callable[[], None]) -> None:
        if not self._world.healed:
            fault()

    # ---- faults

    def kill_slot(self) -> None:
        """Kill -9 of a slot, a busy one if there is one."""
        slots = [slot for node in self._world.nodes if node.alive for slot in node.slots if slot.up]
        busy = [slot for slot in slots if slot.busy]
        if slots:
            self._rng.choice(busy or slots).die()

    def kill_reserved(self) -> None:
        """Kill -9 of a slot that stands still for a wide task."""
        for node in self._world.nodes:
            for held in node.holder.by_slot.values():
                if node.alive and len(held.slots) > 1:
                    node.slots[held.slots[1]].die()
                    return

    def kill_node(self) -> None:
        """Kill -9 of an agent; its supervisor starts it again."""
        alive = [node for node in self._world.nodes if node.alive]
        if alive:
            self._world.restart_later(self._rng.choice(alive))

    def kill_steward(self) -> None:
        """Kill -9 of the steward."""
        self._world.disturb()
        self._world.steward.kill()
        self._world.schedule.after(0.05 + 5 * self._rng.random() ** 3, self._start_steward)

    def _start_steward(self) -> None:
        if not self._world.steward.alive:
            self._world.steward.start()

    def restart_engine(self) -> None:
        """Kill -9 of the engine."""
        if self._world.engine.up:
            self._world.disturb()
            self._world.engine.stop()
            self._world.schedule.after(0.05 + 8 * self._rng.random() ** 4, self._world.engine_back)

    def kill_client(self) -> None:
        """Kill -9 of a client; its connection closes. Some clients have to live, or there is nothing to see."""
        clients = [client for client in self._world.clients if client.alive]
        if len(clients) > 1:
            client = self._rng.choice(clients)
            client.kill()
            self._world.closed(f"session:{client.name}")

    def freeze(self) -> None:
        """SIGSTOP and SIGCONT, within the silence limit or far beyond it."""
        actor = self._anybody()
        if actor is None or actor.frozen:
            return
        self._world.disturb()
        seconds = self._rng.choice((0.3, 2.0, 5.0, 15.0, 35.0)) * (0.5 + self._rng.random())
        for node in self._world.nodes:
            if node is actor:
                node.frozen_slots = self._rng.random() < 0.5
        actor.freeze()
        self._world.log("%s is frozen for %.1f s", actor.name, seconds)
        self._world.schedule.after(seconds, self._thaw, actor, actor.life)

    def _thaw(self, actor: Actor, life: int) -> None:
        if actor.life == life:
            actor.thaw()

    def cut(self) -> None:
        """A cable is pulled: both ways or one way; messages wait or are lost."""
        actor = self._anybody()
        if actor is None or actor.cut_up or actor.cut_down:
            return
        self._world.disturb()
        up, down = self._rng.choice(((True, True), (True, True), (True, False), (False, True)))
        held = self._rng.random() < 0.4
        self._world.network.cut(actor, up=up, down=down, held=held)
        seconds = self._rng.choice((0.2, 1.0, 4.0, 12.0)) * (0.5 + self._rng.random())
        if not held:
            self._world.schedule.after(min(seconds, 6.0) * self._rng.random(), self._world.closed_of, actor, actor.life)
        self._world.schedule.after(seconds, self._world.network.mend, actor)

    def mistake_client(self) -> None:
        """A client is cut off for so long that it is taken for dead, and comes back."""
        clients: list[Actor] = [client for client in self._world.clients if client.alive and not client.cut_up]
        if clients:
            self._world.disturb()
            client = self._rng.choice(clients)
            self._world.network.cut(client, up=True, down=True, held=False)
            self._world.schedule.after(0.1, self._world.closed_of, client, client.life)
            self._world.schedule.after(3.0, self._world.network.mend, client)

    def _anybody(self) -> Actor | None:
        actors: list[Actor] = [*self._world.nodes, *self._world.nodes, *self._world.clients, self._world.steward]
        alive = [actor for actor in actors if actor.alive]
        return self._rng.choice(alive) if alive else None

    def fill(self) -> None:
        """The engine has no space for new work."""
        self._world.engine.full = True
        self._world.schedule.after(0.5 + 6 * self._rng.random(), self._world.engine_has_space)

    def leave(self) -> None:
        """A node's owner wants the machine back. The first node always stays."""
        nodes = [node for node in self._world.nodes[1:] if node.alive]
        if nodes:
            node = self._rng.choice(nodes)
            node.gone_for_good = True
            node.leave()

    def end_session(self) -> None:
        """A client leaves in good order."""
        clients = [client for client in self._world.clients if client.alive]
        if len(clients) > 1:
            self._rng.choice(clients).end()
