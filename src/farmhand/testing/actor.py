"""A process of the simulated world: it dies, freezes and starts again, and what reaches it waits while it is frozen.

Work that waits for answers is written as a generator that yields a `Request` or a `Sleep` and receives the answer, or
`TIMEOUT`. A kill forgets it all, as a real one does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from farmhand.testing.world import World


class Request(NamedTuple):
    """Have `action(actor, number, *args)` run at the engine; it answers with `Actor.answer(number, value)`."""

    action: Callable[..., None]
    args: tuple[Any, ...] = ()
    timeout: float = 5.0


class Sleep(NamedTuple):
    """Wait so many seconds."""

    seconds: float


TIMEOUT: Final = object()
Steps = Generator[Request | Sleep, Any, Any]


class Actor:
    """See the head of this file. `life` counts starts: what was meant for an earlier life never arrives."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = False
        self.frozen = False
        self.life = 0
        self.cut_up = self.cut_down = False  # messages to and from the engine vanish, or wait if `held` is a list
        self.held: list[tuple[bool, Callable[..., None], tuple[Any, ...]]] | None = None
        self.connection = 0  # counts connections: what was sent on an old one is lost
        self.sent_at = self.received_at = 0.0  # keep the order of a link
        self._frozen_events: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._waiting: dict[int, Steps] = {}
        self._number = 0

    # ---- life

    def start(self) -> None:
        """Come to life."""
        self.alive = True
        self.life += 1
        self.connection += 1
        self.on_start()

    def kill(self) -> None:
        """Die at once; nothing is said to anybody."""
        if not self.alive:
            return
        self.alive = self.frozen = False
        self.life += 1
        self._frozen_events.clear()
        self._waiting.clear()
        self.on_killed()
        self.world.log("%s died", self.name)

    def freeze(self) -> None:
        """Stand still; nothing is lost."""
        self.frozen = self.alive

    def thaw(self) -> None:
        """Go on, with everything that has come meanwhile."""
        if not self.frozen:
            return
        self.frozen = False
        self.world.log("%s goes on", self.name)
        events, self._frozen_events = self._frozen_events, []
        life = self.life
        for action, args in events:
            self.fire(life, action, args)

    def on_start(self) -> None:
        """What this process does first."""

    def on_killed(self) -> None:
        """What is lost with this process."""

    def on_connected(self) -> None:
        """The engine is there again after an outage."""

    def check(self) -> None:
        """Raise when something is wrong in this process."""

    # ---- time

    def after(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        """Do something later in this life."""
        self.world.schedule.after(delay, self.fire, self.life, action, args)

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something again and again in this life. It calls `check` itself if it changes anything."""
        self.world.schedule.after(seconds, self._again, self.life, seconds, action)

    def _again(self, life: int, seconds: float, action: Callable[[], None]) -> None:
        if life != self.life:
            return
        if self.frozen:
            self._frozen_events.append((self._again, (life, seconds, action)))
            return
        self.world.schedule.after(seconds, self._again, life, seconds, action)
        action()

    def fire(self, life: int, action: Callable[..., None], args: tuple[Any, ...]) -> None:
        """An event of this process."""
        if life != self.life:
            return
        if self.frozen:
            self._frozen_events.append((action, args))
            return
        action(*args)
        self.check()

    # ---- waiting for answers

    def spawn(self, steps: Steps) -> None:
        """Start work that waits for answers."""
        self._resume(steps, None)

    def _resume(self, steps: Steps, value: Any) -> None:
        try:
            wish = steps.send(value)
        except StopIteration:
            return
        self._number += 1
        self._waiting[self._number] = steps
        if isinstance(wish, Sleep):
            self.after(wish.seconds, self.answer, self._number, None)
        else:
            self.after(wish.timeout, self.answer, self._number, TIMEOUT)
            self.world.network.up(self, wish.action, (self, self._number, *wish.args))

    def answer(self, number: int, value: Any) -> None:
        """The answer to a request has come; a second one is dropped."""
        steps = self._waiting.pop(number, None)
        if steps is not None:
            self._resume(steps, value)
