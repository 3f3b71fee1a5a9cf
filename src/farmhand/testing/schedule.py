"""Virtual time: what is to happen, in order. Equal times happen in the order in which they were asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection
from typing import Any


class Schedule:
    """`now` is in seconds and moves only from one event to the next."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0  # that have happened
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def at(self, when: float, action: Callable[..., None], *args: Any) -> None:
        """Do something at a time; the past means now."""
        self._number += 1
        heapq.heappush(self._heap, (max(when, self.now), self._number, action, args))

    def after(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        """Do something `delay` seconds from now."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, action, args))

    def pass_over(self, seconds: float, computing: Collection[object]) -> None:
        """Time passes in which nothing happens: what was due then is late, and happens at once, in order.

        What `computing` objects were to do takes so much longer: they had no time to do it.
        """
        self.now += seconds
        self._heap = [
            (when + seconds if getattr(action, "__self__", None) in computing else when, number, action, args)
            for when, number, action, args in self._heap
        ]
        heapq.heapify(self._heap)

    def step(self) -> None:
        """Let the next event happen. There must be one."""
        when, _, action, args = heapq.heappop(self._heap)
        self.now = max(self.now, when)
        self.events += 1
        action(*args)

    def next_at(self) -> float:
        """The time of the next event, infinite when there is none."""
        return self._heap[0][0] if self._heap else float("inf")
