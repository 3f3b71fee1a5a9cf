"""A node's holder as the tests drive it."""

from __future__ import annotations

from typing import Any

from tests.unit.core.effects import Effects

from farmhand.core.holding import Held, Holder, Pull, Start
from farmhand.model.messages import Profile, State, Work
from farmhand.model.needs import Lane, Need
from farmhand.model.outcome import Kind, Mark

NARROW = Lane()
WIDE = Lane((Need("cpus", "=", "2"),))
URGENT = Lane(priority=9)
DEATH = Mark(0, Kind.CRASHED, "killed by SIGKILL", None, 9, ("last words",), 5)


def work(token: int = 1, count: int = 1, session: str = "k1", state: State = State(), environment: str = "") -> Work:  # noqa: B008
    return Work(1, session, token, count, Profile("c", state=state, environment=environment))


class Node:
    """A holder whose slots are ready, and what it asks for. Pulls are left out unless a test is about them."""

    def __init__(self, seen: Effects, slots: int = 1, lanes: tuple[Lane, ...] = (NARROW,)) -> None:
        self.holder = Holder(slots)
        self.seen = seen
        self.pulls: list[Pull] = []
        self.sequence = 0
        self.tell(self.holder.on_lanes(list(lanes)))
        for slot in range(slots):
            self.tell(self.holder.on_slot_ready(slot, 0.0))

    def tell(self, effects: list[Any]) -> None:
        self.pulls += [effect for effect in effects if isinstance(effect, Pull)]
        self.seen.add(effect for effect in effects if not isinstance(effect, Pull))

    def message(self, lane: Lane = NARROW, now: float = 0.0, **more: Any) -> Held:
        self.sequence += 1
        found = work(**{"token": self.sequence, **more})
        self.tell(self.holder.on_message(lane.id, self.sequence, found, 0, now, "cargo", wait=True))
        return self.holder.held[lane.id, self.sequence]

    def started(self, lane: Lane = NARROW, now: float = 0.0, **more: Any) -> Held:
        held = self.message(lane, now, **more)
        assert self.seen.take(Start).held is held
        return held
