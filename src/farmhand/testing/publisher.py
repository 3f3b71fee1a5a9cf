"""Stored publishes: repeated until the engine answers, at once after a reconnect, given up after STORE_DEADLINE_S."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farmhand.model import limits
from farmhand.testing.actor import Actor

Done = Callable[[int, str], None]  # sequence in the stream, and the problem: empty, "full" or "silent"


class Storing(Actor):
    """A process that stores messages."""

    publisher: Publisher


class Publisher:
    """The stored publishes of one life of a process. `done` is called once for each."""

    def __init__(self, actor: Storing) -> None:
        self._actor = actor
        self._number = 0
        self._waiting: dict[int, tuple[Callable[..., None], tuple[Any, ...], Done, float]] = {}
        self._due: dict[int, float] = {}  # when each is looked at again

    def publish(self, action: Callable[..., None], args: tuple[Any, ...], done: Done) -> None:
        """Have `action(actor, number, *args)` run at the engine until it is answered."""
        self._number += 1
        deadline = self._actor.world.schedule.now + limits.STORE_DEADLINE_S
        self._waiting[self._number] = (action, args, done, deadline)
        self._send(self._number)

    def _send(self, number: int) -> None:
        action, args, _, _ = self._waiting[number]
        self._actor.world.network.up(self._actor, action, (self._actor, number, *args))
        self._due[number] = self._actor.world.schedule.now + limits.STORE_RETRY_S
        self._actor.after(limits.STORE_RETRY_S, self._again, number)

    def _again(self, number: int) -> None:
        if number not in self._waiting:
            return
        now = self._actor.world.schedule.now
        action, args, done, deadline = self._waiting[number]
        if now >= deadline and now - self._due[number] >= limits.STOPPED_S:  # it stood still: the answer may be there
            self._due[number] = now + limits.STORE_RETRY_S
            self._waiting[number] = action, args, done, self._due[number]
            self._actor.after(limits.STORE_RETRY_S, self._again, number)
        elif now >= deadline:
            self._waiting.pop(number)[2](0, "silent")
        else:
            self._send(number)

    def on_connected(self) -> None:
        """Send again what is unanswered."""
        for number in list(self._waiting):
            action, args, _, _ = self._waiting[number]
            self._actor.world.network.up(self._actor, action, (self._actor, number, *args))

    def on_ack(self, number: int, sequence: int, problem: str) -> None:
        """The engine has answered; a second answer is dropped."""
        if number in self._waiting:
            self._waiting.pop(number)[2](sequence, problem)
