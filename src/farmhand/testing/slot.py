"""A slot's process in the simulated world: runs batches call by call, and sends frames to its agent through a pipe."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from farmhand.core.holding import Held
from farmhand.model.outcome import Kind, Mark
from farmhand.testing.calls import CRASH, DOOM, HANG, RAISE, Call

if TYPE_CHECKING:
    from farmhand.testing.node import SimNode

_FLUSH_S: Final = 0.010
_PIPE_S: Final = 0.001


class _Batch:
    __slots__ = (
        "body",
        "count",
        "dropped",
        "ended",
        "first",
        "flush_at",
        "marks",
        "pending",
        "seconds",
        "token",
        "values",
    )

    def __init__(self, token: int, body: list[Call | None], dropped: set[int]) -> None:
        self.token = token
        self.body = body
        self.count = len(body)
        self.pending = deque(range(self.count))
        self.dropped = set(dropped)
        self.first = 0
        self.ended = 0  # since `first`
        self.values: list[Any] = []
        self.marks: list[Mark] = []
        self.seconds = 0.0
        self.flush_at = 0.0


class SimSlot:
    """One slot of a node over all its processes; `life` counts them."""

    def __init__(self, node: SimNode, number: int) -> None:
        self.node = node
        self.number = number
        self.up = False
        self.busy = False  # a batch was given to this process and has not ended
        self.running = -1  # as the agent reads it, also after the death
        self.began = 0.0
        self.life = 0
        self.worn = ""  # the environment of this process
        self.ordered = False  # to die
        self._batch: _Batch | None = None
        self._pipe_at = self._order_at = 0.0
        self._muted = 0  # the process whose frames are lost
        self._ended: tuple[int, int] | None = None  # the last batch's token and count: orders for it may still come
        self._random = node.world.rng.random

    # ---- the process

    def start(self, environment: str = "") -> None:
        """Spawn it; READY follows. Orders are read when it is up."""
        self.worn = environment
        self.ordered = False
        self.life += 1
        self.up = True
        self.busy = False
        self.running = -1
        self._batch = None
        self._ended = None
        boot = 0.02 + 0.2 * self._random()
        self._order_at = self.node.world.schedule.now + boot
        self._later(boot, self._say, self.node.on_slot_ready)

    def die(self) -> None:
        """The process is gone; its agent reads what is in the pipe, most times, and then its end."""
        if not self.up:
            return
        self.stop()
        if self._random() < 0.1:
            self._muted = self.life  # what is in the pipe is lost
        self._frame(self.node.on_slot_exit, (), last=True)

    def stop(self) -> None:
        """The process is gone and nobody is told."""
        self.up = self.busy = False
        self._batch = None

    def kill(self) -> None:
        """The agent kills it; it may do a little more before it dies."""
        self._later(_PIPE_S * self._random(), self.die)

    def _later(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        self.node.world.schedule.after(delay, self._fire, self.life, action, args)

    def _fire(self, life: int, action: Callable[..., None], args: tuple[Any, ...]) -> None:
        if life != self.life or not self.up:
            return
        if self.node.frozen and self.node.frozen_slots:
            self.node.fire(self.node.life, self._fire, (life, action, args))
        else:
            action(*args)

    def _say(self, action: Callable[..., None], *args: Any) -> None:
        self._frame(action, args, last=False)

    def _frame(self, action: Callable[..., None], args: tuple[Any, ...], *, last: bool) -> None:
        """One frame to the agent; frames keep their order."""
        schedule = self.node.world.schedule
        self._pipe_at = max(self._pipe_at, schedule.now + _PIPE_S * self._random())
        schedule.at(self._pipe_at, self.node.fire, self.node.life, self._hear, (self.life, last, action, args))

    def _hear(self, process: int, last: bool, action: Callable[..., None], args: tuple[Any, ...]) -> None:
        """The agent reads a frame. Those of a process that was replaced are dropped."""
        if process == self.life and (last or process != self._muted):
            action(self, *args)

    # ---- running

    def run(self, held: Held, body: list[Call | None]) -> None:
        """A batch for this process; loading it takes a moment."""
        self.node.world.invariants.on_run(self, held)
        if not self.up:
            return  # it has died, and the agent is about to read that
        self.busy = True
        self._order(_PIPE_S, self._load, held.work.token, body, set(held.dropped))

    def _load(self, *batch: Any) -> None:
        self._later(0.001 if self._random() < 0.9 else 0.3 * self._random(), self._begin, *batch)

    def _begin(self, token: int, body: list[Call | None], dropped: set[int]) -> None:
        self._batch = _Batch(token, body, dropped)
        self._next(self._batch)

    def _next(self, batch: _Batch) -> None:
        while batch.pending:
            index = batch.pending.popleft()
            if index not in batch.dropped:
                self._run_one(batch, index)
                return
            batch.marks.append(Mark(index, Kind.KILLED))
            batch.ended += 1
        self._batch = None
        self.busy = False
        self.running = -1
        self._ended = (batch.token, batch.count)
        self._flush(batch)

    def _run_one(self, batch: _Batch, index: int) -> None:
        call = batch.body[index]
        self.running, self.began = index, self.node.world.schedule.now
        fate = call.next_fate() if call is not None else RAISE
        seconds = call.seconds if call is not None else 0.0
        self.node.world.log("%s.%d runs %s (%d): %s", self.node.incarnation, self.number, call, index, fate)
        if fate != HANG:
            self._later(seconds, self._end_one, batch, index, fate)

    def _end_one(self, batch: _Batch, index: int, fate: str) -> None:
        if fate == CRASH:
            self.die()
            return
        if fate == DOOM:
            self.node.world.restart_later(self.node)
            return
        now = self.node.world.schedule.now
        if fate == RAISE:
            batch.marks.append(Mark(index, Kind.RAISED))
        batch.values.append(batch.body[index])
        batch.seconds += now - self.began
        batch.ended += 1
        if batch.ended == 1:
            batch.flush_at = now + _FLUSH_S
        if batch.pending and now >= batch.flush_at:
            self._flush(batch)
        self._next(batch)

    def _flush(self, batch: _Batch) -> None:
        if not batch.ended:
            return
        self._say(self.node.on_slot_result, batch.first, batch.ended, tuple(batch.marks), batch.values, batch.seconds)
        batch.first += batch.ended
        batch.ended, batch.marks, batch.values, batch.seconds = 0, [], [], 0.0

    # ---- orders of the agent

    def retract(self) -> None:
        """Give back what is not started."""
        busy = self._random() < 0.2  # with code that lets no other thread of the process run
        self._order(0.2 if busy else _PIPE_S, self._retract)

    def _retract(self) -> None:
        batch = self._batch
        if batch is None:
            if self._ended is not None:
                self._say(self.node.on_slot_retracted, *self._ended)
            return
        first = batch.count
        while batch.pending:
            first = batch.pending.pop()
        self._flush(batch)
        self._say(self.node.on_slot_retracted, batch.token, first)

    def drop(self, index: int) -> None:
        """Do not start that index."""
        self._order(_PIPE_S, self._drop, index)

    def _order(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        """A frame from the agent; they keep their order."""
        now = self.node.world.schedule.now
        self._order_at = max(self._order_at, now + delay * self._random())
        self._later(self._order_at - now, action, *args)

    def _drop(self, index: int) -> None:
        if self._batch is not None:
            self._batch.dropped.add(index)
