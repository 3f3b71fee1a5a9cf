"""Places that are lent: while a task waits for tasks that it has submitted itself, others run in its place.

A node has as many places as slots. A task that waits (a waiter) keeps its process and gives up its places; what runs there
runs in a process of its own, a spare one when no other is free. When the waiter goes on it does so at once, and the node
starts nothing until no more than its places are taken.

The rule that keeps this free of deadlocks, and its stack of waiters short: a message may start only when the places that are
not lent by waiters of its own depth or deeper have room for it. So at each depth no more wait than there are places, and the
children of the deepest waiter can always be started. Without it a node would start one branch after the other of a tree of
tasks, and each would wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from farmhand.model import limits

if TYPE_CHECKING:
    from farmhand.core.held import Held


class Lending:
    """What a holder knows of waiters and spare processes. Spares are numbered from `places` on."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.waiting: dict[int, Held] = {}  # by slot
        self.spares: dict[int, float] = {}  # when each was last of use; infinite while it has not started

    @property
    def full(self) -> bool:
        """One waiter more could not be given a spare process."""
        return len(self.waiting) >= limits.SPARES_MAX

    def room(self, by_slot: dict[int, Held]) -> int:
        """Places that nothing runs in; negative while a waiter that went on shares its place."""
        return self.places - sum(held.cpus for slot, held in by_slot.items() if slot not in self.waiting)

    def deep_enough(self, held: Held) -> bool:
        """Whether the rule at the head of this file lets a message start, once there is room."""
        if not self.waiting:
            return True
        depth = held.work.depth
        lent = sum(waiter.cpus for waiter in self.waiting.values() if waiter.work.depth >= depth)
        return lent + held.cpus <= self.places

    def may_start(self, held: Held, by_slot: dict[int, Held]) -> bool:
        """The same with what runs: those in the lenders' places take away from the room of the others."""
        depth = held.work.depth
        lent = sum(waiter.cpus for waiter in self.waiting.values() if waiter.work.depth >= depth)
        return lent + held.cpus <= self.room(by_slot)

    def to_come(self) -> int:
        """Processes that can be had: spares that start, and those that may be started."""
        starting = sum(since == math.inf for since in self.spares.values())
        return starting + max(0, len(self.waiting) - len(self.spares))

    def spare(self) -> int | None:
        """The number of a spare process to start now; None when there are as many as waiters."""
        if len(self.spares) >= len(self.waiting):
            return None
        number = next(n for n in range(self.places, self.places + len(self.spares) + 1) if n not in self.spares)
        self.spares[number] = math.inf
        return number

    def useless(self, idle: Iterable[int], now: float) -> list[int]:
        """Idle spares that are too many, or that nothing needed for SPARE_KEEP_S."""
        found = [slot for slot in idle if slot in self.spares]
        surplus = len(self.spares) - len(self.waiting)
        old = [slot for slot in found if now - self.spares[slot] >= limits.SPARE_KEEP_S]
        chosen = [*found[self.places + 1 :], *(slot for slot in old if slot not in found[self.places + 1 :])]
        return chosen[: max(0, surplus)]

    def on_tick(self, idle: Iterable[int], now: float) -> None:
        """What is not idle is of use."""
        resting = set(idle)
        for slot, since in self.spares.items():
            if slot not in resting and since != math.inf:
                self.spares[slot] = now

    def on_lost(self, slot: int, by_slot: dict[int, Held]) -> bool:
        """A process is gone. True for a spare: nobody starts it again, and its number may be given to another."""
        self.waiting.pop(slot, None)
        if self.spares.pop(slot, None) is None:
            return False
        for held in by_slot.values():
            held.slots = [mine for mine in held.slots if mine != slot]
        return True
