"""Watching what runs in the slots: says that it runs, and stops what runs too long, takes too much or is not wanted."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from farmhand.core import holding
from farmhand.core.pauses import Pauses
from farmhand.engine import subjects
from farmhand.model import limits, messages
from farmhand.model.messages import Started, place_at
from farmhand.model.outcome import Kind
from farmhand.node.slotproc import SlotProcess

if TYPE_CHECKING:
    from farmhand.node.agent import Agent

log = logging.getLogger("farmhand.node")


class Watch:
    """Runs on the agent's loop. Its timers belong to the held message and end with it."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._loop = asyncio.get_running_loop()
        self._pauses = Pauses(time.monotonic())

    def look(self) -> None:
        """Notice whether this machine has slept. Call it often."""
        if seconds := self._pauses.look(time.monotonic()):
            log.warning("this process stood still for %.1f s; that counts for no task's timeout", seconds)

    def begin(self, held: holding.Held, slot: SlotProcess) -> None:
        """The slot was given this message."""
        if held.work.alone:
            self._announce(held, 0)
        timers = held.cargo.timers
        timers.append(self._loop.call_later(limits.STARTED_NOTICE_S, self.announce_running, held, slot))
        if held.work.profile.timeout:
            timers.append(self._loop.call_later(held.work.profile.timeout, self._check_timeout, held, slot))

    @staticmethod
    def end(held: holding.Held) -> None:
        """The slot is done with it, or dead."""
        for timer in held.cargo.timers:
            timer.cancel()
        held.cargo.timers.clear()

    def _runs(self, held: holding.Held, slot: SlotProcess) -> bool:
        return held.state is holding.HeldState.RUNNING and self._agent.slots.get(slot.number) is slot

    # ---- telling the session

    def announce_running(self, held: holding.Held, slot: SlotProcess, pause: float = limits.STARTED_NOTICE_S, *,
                         again: bool = True) -> None:  # fmt: skip
        """Say which task runs, as soon as one does, and now and then `again`: the session may have missed it."""
        if not self._runs(held, slot):
            return
        index, _ = slot.running()
        if index >= 0:
            self._announce(held, index)
            if again:
                held.cargo.timers.append(self._loop.call_later(limits.ANNOUNCE_S, self.announce_running, held, slot))
        elif again:  # it still loads the function or its arguments
            pause = min(2 * pause, limits.OVERDUE_S)
            held.cargo.timers.append(self._loop.call_later(pause, self.announce_running, held, slot, pause))

    def _announce(self, held: holding.Held, index: int) -> None:
        node = self._agent.config.node
        notice = Started(held.work.token, index, node, held.slots[0], place_at(held.work.origin, index))
        self._agent.connection.publish(subjects.started(held.work.session, node), messages.encode(notice))

    # ---- stopping

    def _check_timeout(self, held: holding.Held, slot: SlotProcess) -> None:
        """The first task may have run for `timeout`; later ones of the batch get the rest of theirs."""
        if not self._runs(held, slot):
            return
        timeout = held.work.profile.timeout
        index, began = slot.running()
        self.look()
        now = time.monotonic()
        left = began + timeout + self._pauses.since(began, now) - now if index >= 0 else timeout
        if index >= 0 and left <= 0:
            self._agent.carry_out(self._agent.holder.on_overtime(slot.number, index, Kind.TIMED_OUT))
            left = timeout  # it may just have ended: then the next one of the batch has its time
        held.cargo.timers.append(self._loop.call_later(max(left, 0.001), self._check_timeout, held, slot))

    def dropped(self, held: holding.Held, slot: SlotProcess, pause: float = limits.STARTED_NOTICE_S) -> None:
        """The slot may have begun with an index just when it was told to drop it: then only its death helps."""

        def look() -> None:
            if not self._runs(held, slot):
                return
            running, _ = slot.running()
            if running in held.dropped:
                self._agent.carry_out(self._agent.holder.on_kill(held.work.token, running, running))
            elif any(index >= held.done for index in held.dropped):
                self.dropped(held, slot, min(2 * pause, limits.OVERDUE_S))

        held.cargo.timers.append(self._loop.call_later(pause, look))

    def check_memory(self) -> None:
        """Measure what runs. A task that has stated its need may not use more."""
        from farmhand.node import monitor

        agent = self._agent
        for number, held in list(agent.holder.by_slot.items()):
            slot, granted = agent.slots[number], held.work.profile.memory
            if not granted:
                continue  # its peak is known at its death
            used = monitor.tree_memory(slot.pid)
            slot.peak_memory = max(slot.peak_memory, used)
            if used > granted:
                slot.tail.append(f"used {used} bytes, {granted} were granted")
                agent.carry_out(agent.holder.on_overtime(number, slot.running()[0], Kind.OUT_OF_MEMORY))
