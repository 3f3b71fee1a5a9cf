"""What a node holds: which work it asks for, which slot runs what, and when a message is finished with.

What it decides: pulls, admission, who is blamed when a slot dies. What it must never do: finish a message before every
report on it is stored; start a task twice; keep work that it cannot start soon from others; give work to a slot that is
being killed.

Rule 1: a message leaves the node by exactly one of Ack (all reports stored, or its session is gone), Nak (nothing of it was
started), or Forget (the steward has taken it back).
Rule 2: the reports on a message cover each index once, in order: what ran, then what was handed back.

        QUEUED --slot free--> RUNNING --reported to the end--> STORING --stored--> acked
          |                      |
          +--Nak, surplus        +--slot died: the rest is reported as crashed or handed back
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from farmhand.core.held import (
    Ack,
    Drop,
    Effect,
    Finish,
    Held,
    HeldState,
    KillSlot,
    LanePulls,
    Nak,
    Pull,
    RefuseWait,
    Retract,
    Start,
    StartSpare,
)
from farmhand.core.lending import Lending
from farmhand.core.notes import forget_oldest
from farmhand.model import limits
from farmhand.model.ids import LaneId
from farmhand.model.messages import Work
from farmhand.model.needs import Lane
from farmhand.model.outcome import Kind, Mark

__all__ = [
    "Ack",
    "Drop",
    "Effect",
    "Finish",
    "Held",
    "HeldState",
    "Holder",
    "KillSlot",
    "Nak",
    "Pull",
    "RefuseWait",
    "Retract",
    "Start",
    "StartSpare",
]


class Holder:
    """See the head of this file. Slots are numbered from 0; they report ready before they are used."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.idle: list[int] = []
        self.held: dict[tuple[LaneId, int], Held] = {}
        self.queue: list[Held] = []  # QUEUED, best first
        self.by_slot: dict[int, Held] = {}  # the slot that runs it only
        self.leaving = False
        self._worn: dict[int, str] = {}  # the environment of what each slot ran last
        self.lending = Lending(slots)
        self._down: set[int] = set()  # slots that are being killed or are gone, until they are ready again
        self._lanes: dict[LaneId, LanePulls] = {}
        self._turn = 0
        self._tombstones: OrderedDict[int, set[int]] = OrderedDict()
        self._withdrawn: OrderedDict[str, int] = OrderedDict()  # sessions that have ended: up to which sequence

    @property
    def share(self) -> int:
        """Messages that the node wants to have waiting: one for each idle slot, and a prefetched one for each that frees soon."""
        lending = self.lending
        freeing = sum(not held.long for slot, held in self.by_slot.items() if slot not in lending.waiting)
        idle = max(0, min(lending.room(self.by_slot), len(self.idle) + lending.to_come()))
        wanted = idle + (idle + freeing) * limits.PREFETCH_PER_SLOT
        # A wide task at the head keeps its place however long it takes, or narrow ones would take each slot that frees.
        return max(wanted, 1) if self.queue and self.queue[0].cpus > 1 else wanted

    @property
    def busy(self) -> int:
        """Places in which something runs, or that stand still for it."""
        return self.slots - self.lending.room(self.by_slot)

    # ---- lanes and pulls

    def on_lanes(self, lanes: list[Lane]) -> list[Effect]:
        """These are all the lanes that this node serves now."""
        wanted = {lane.id: lane for lane in lanes if lane.cpus <= self.slots}
        for gone in set(self._lanes) - set(wanted):
            del self._lanes[gone]
        for lane_id, lane in wanted.items():
            self._lanes.setdefault(lane_id, LanePulls(lane))
        return self.plan()

    def lane(self, lane: LaneId) -> Lane | None:
        """The lane of that id if this node serves it."""
        pulls = self._lanes.get(lane)
        return pulls.lane if pulls else None

    def on_connected(self) -> list[Effect]:
        """The engine is there (again). It has forgotten every open request."""
        for pulls in self._lanes.values():
            pulls.open = pulls.asking = 0
        return self.plan()

    def on_pull_ended(self, lane: LaneId, *, wait: bool, refused: bool = False) -> list[Effect]:
        """The engine answered a request with nothing. When it refused it, the next tick asks again, and not at once."""
        if pulls := self._lanes.get(lane):
            if wait:
                pulls.open = max(0, pulls.open - 1)
            else:
                pulls.asking = max(0, pulls.asking - 1)
                pulls.pending = 0
        return [] if refused else self.plan()

    def plan(self) -> list[Effect]:
        """Requests to make now. What can arrive beyond the node's share is one message of each lane."""
        if self.leaving or not self._lanes:
            return []
        queued = sum(map(self.lending.deep_enough, self.queue))  # others may stand before those that can start
        share = self.share
        room = share - queued - sum(p.asking for p in self._lanes.values())
        if len(self._lanes) == 1:
            return self._plan_single(next(iter(self._lanes.values())), room)
        effects: list[Effect] = []
        for pulls in self._known_work():
            while room > 0 and pulls.pending > 0:
                pulls.pending -= 1
                pulls.asking += 1
                room -= 1
                effects.append(Pull(pulls.lane.id, wait=False))
        if share:
            # Also without room a lane is listened to, or work in it would wait until all that is known elsewhere is done.
            heard = set() if room > 0 else {held.lane for held in self.queue}
            for lane, pulls in self._lanes.items():
                if not pulls.open and not pulls.pending and lane not in heard:
                    pulls.open = 1
                    effects.append(Pull(lane, wait=True))
        return effects

    def _plan_single(self, pulls: LanePulls, room: int) -> list[Effect]:
        """One lane: open requests are exactly what there is room for, so nothing ever has to be handed back."""
        missing = room - pulls.open
        if missing <= 0:
            return []
        pulls.open += missing
        return [Pull(pulls.lane.id, wait=True)] * missing

    def _known_work(self) -> list[LanePulls]:
        """Lanes that are known to have work: the urgent first, equals in turn."""
        self._turn += 1
        known = [pulls for pulls in self._lanes.values() if pulls.pending > 0]
        if len(known) > 1:
            at = self._turn % len(known)
            known = known[at:] + known[:at]
            known.sort(key=lambda pulls: -pulls.lane.priority)
        return known

    # ---- work arrives

    def on_message(self, lane: LaneId, sequence: int, work: Work, pending: int, now: float, cargo: Any,
                   *, wait: bool) -> list[Effect]:  # fmt: skip
        """The engine delivered a message; `pending` more wait in its lane."""
        pulls = self._lanes.get(lane)
        known = self.held.get((lane, sequence))
        if pulls is not None:
            pulls.pending = pending
            if wait:
                pulls.open = max(0, pulls.open - 1)
            else:
                pulls.asking = max(0, pulls.asking - 1)
        if known is not None:  # delivered again although we hold it: our renewal was late
            known.cargo = cargo
            return self.plan()
        held = Held(pulls.lane if pulls else Lane(), sequence, work, now, cargo)
        held.lane = lane
        if pulls is None or self.leaving:
            return [Nak(held)]
        if sequence <= self._withdrawn.get(work.session, 0):
            return [Ack(held), *self.plan()]
        held.dropped = self._tombstones.pop(work.token, set())
        self.held[(lane, sequence)] = held
        self.queue.append(held)
        # By its place in the stream, not by its arrival: one that was handed back and came again would always be the last,
        # and so be handed back again.
        self.queue.sort(key=lambda h: (-h.priority, -h.work.depth, h.sequence))
        return self._admit(now) + self.plan()

    def _admit(self, now: float) -> list[Effect]:
        """Start what can start. The first in the queue reserves slots as they free, so that a wide task is not starved."""
        effects: list[Effect] = []
        while ready := self._startable():
            if len(self.idle) < ready[0].cpus:
                spare = self.lending.spare()
                effects += [StartSpare(spare)] if spare is not None else []
                break
            held = self._next(ready, now)
            self.queue.remove(held)
            held.slots, self.idle = self.idle[: held.cpus], self.idle[held.cpus :]
            held.state = HeldState.RUNNING
            held.started_at = now
            held.retract_at = now + limits.OVERDUE_S
            self.by_slot[held.slots[0]] = held
            effects.append(Start(held))
        return effects

    def _startable(self) -> list[Held]:
        """What there are places for, best first; a wide task keeps those behind it waiting."""
        found: list[Held] = []
        for held in self.queue:
            if not self.lending.deep_enough(held):
                continue
            if self.lending.may_start(held, self.by_slot):
                found.append(held)
            elif held.cpus > 1 or not self.lending.waiting:
                break
        return found

    def _next(self, ready: list[Held], now: float) -> Held:
        """The first of them, or one as urgent for which no slot must change its environment. Its slot stands first."""
        found = ready[0]
        if self.lending.spares:
            self.idle.sort()  # spares last, so that they become useless
        wanted = found.work.profile.environment
        if not self._worn and not wanted:  # as nearly always
            return found
        worn = {self._worn.get(slot, "") for slot in self.idle}
        if wanted not in worn and now - found.arrived_at < limits.ENVIRONMENT_TURN_S:
            fitting = (h for h in ready if h.work.profile.environment in worn and h.cpus == 1)
            found = next((h for h in fitting if h.priority == found.priority), found)
            wanted = found.work.profile.environment
        self.idle.sort(key=lambda slot: self._worn.get(slot, "") != wanted)
        self._worn[self.idle[0]] = wanted
        return found

    # ---- slots

    def on_slot_ready(self, slot: int, now: float) -> list[Effect]:
        """A slot has started and waits for work, or goes on standing still for the task that reserved it."""
        self._down.discard(slot)
        if slot in self.lending.spares:
            self.lending.spares[slot] = now
        elif slot >= self.slots:  # a spare that was given up while it started
            return self._kill(slot)
        if slot not in self.idle and not any(slot in held.slots for held in self.by_slot.values()):
            self.idle.append(slot)
        return self._admit(now) + self.plan()

    def on_reported(self, slot: int, count: int, now: float) -> list[Effect]:
        """The slot has ended `count` more indices; the shell has a report on its way (`on_stored` follows)."""
        held = self.by_slot[slot]
        held.done += count
        held.unstored += 1
        if held.done < held.end or held.state is HeldState.GONE:  # GONE: the slot is being killed, its work is nobody's
            return []
        return self._release(held, slot, now)

    def on_retracted(self, slot: int, token: int, first: int, now: float) -> list[Effect]:
        """The slot gave back everything of this attempt from `first` on."""
        held = self.by_slot.get(slot)
        if held is None or held.work.token != token or not held.retracting:  # a late answer, about an earlier message
            return []
        held.retracting = False
        if held.state is HeldState.GONE or not held.done <= first < held.end:
            return []
        marks = tuple(Mark(i, Kind.RETURNED) for i in range(first, held.end))
        effects: list[Effect] = [Finish(held, first, len(marks), marks)]
        held.unstored += 1
        held.end = first
        if held.done >= held.end:
            effects += self._release(held, slot, now)
        return effects

    def _release(self, held: Held, slot: int, now: float) -> list[Effect]:
        """Everything of the message is reported: its slots are free."""
        held.state = HeldState.STORING
        self.by_slot.pop(slot, None)
        self.lending.waiting.pop(slot, None)
        effects = self._kill(slot) if held.work.profile.state.process else []  # its process was for this task alone
        self._free(held)
        return effects + self._admit(now) + self.plan() + self._settle(held)

    def _free(self, held: Held) -> None:
        """Its slots may run other work, but for those that die."""
        self.idle += [slot for slot in held.slots if slot not in self._down]
        held.slots = []

    def on_stored(self, held: Held) -> list[Effect]:
        """The engine has one report on this message."""
        held.unstored -= 1
        return self._settle(held)

    def _settle(self, held: Held) -> list[Effect]:
        if held.state is not HeldState.STORING or held.unstored:
            return []
        held.state = HeldState.GONE
        self.held.pop((held.lane, held.sequence), None)
        return [Ack(held)]

    def on_slot_lost(self, slot: int, running: int, mark: Mark, now: float, *, stillborn: bool = False) -> list[Effect]:
        """The slot's process is gone. `running` is the index it was at (-1 unknown), `mark` says how it died.

        stillborn: it was made for this message and died before it could begin, so `mark` is the fate of all of it.
        """
        if slot in self.idle:
            self.idle.remove(slot)
        self._down.add(slot)
        held = self.by_slot.pop(slot, None)
        if held is not None:
            self._free(held)
        if self.lending.on_lost(slot, self.by_slot):
            self._down.discard(slot)
            self._worn.pop(slot, None)
        if held is None:
            return self._admit(now) if slot >= self.slots else []
        if held.state is HeldState.GONE:  # nobody wants a report
            return self._admit(now) + self.plan()
        blamed = running if held.done <= running < held.end else held.done
        marks = tuple(self._mark(held, i, i if stillborn else blamed, mark) for i in range(held.done, held.end))
        held.state = HeldState.STORING
        held.unstored += 1
        return [Finish(held, held.done, len(marks), marks), *self._admit(now), *self.plan()]

    def _mark(self, held: Held, index: int, blamed: int, mark: Mark) -> Mark:
        """The fate of one index of a batch whose slot died: only the one that ran is blamed, none when we killed the slot."""
        if index in held.dropped:
            return Mark(index, Kind.KILLED)
        kind = held.killing.get(index)
        if kind is None and (index != blamed or held.killing or self.leaving):
            return Mark(index, Kind.RETURNED)
        return Mark(
            index,
            mark.kind if kind is None else kind,
            mark.text,
            mark.exit_code,
            mark.signal,
            mark.tail,
            mark.peak_memory,
        )

    # ---- tasks that wait for tasks of their own

    def on_waiting(self, slot: int, now: float) -> list[Effect]:
        """The task in this slot waits for tasks that it has submitted: its places are lent until `on_resumed`."""
        held, lending = self.by_slot.get(slot), self.lending
        if held is None or slot in lending.waiting or slot in self._down:
            return []
        if lending.full:
            return [RefuseWait(slot)]
        lending.waiting[slot] = held
        self.idle += [other for other in held.slots[1:] if other not in self._down]
        held.slots = [slot]
        effects: list[Effect] = []
        if held.end - held.done > 1:  # the rest of its message would wait with it
            held.retracting = True
            held.retract_at = now + limits.LONG_RUN_S
            effects.append(Retract(slot))
        return effects + self._admit(now) + self.plan()

    def on_resumed(self, slot: int) -> None:
        """It goes on at once; nothing starts until there is room for it too."""
        self.lending.waiting.pop(slot, None)

    # ---- stopping

    def on_kill(self, token: int, index: int, running: int) -> list[Effect]:
        """The session wants this index stopped. `running` is the index its slot is at, -1 when it is not running."""
        held = next((h for h in self.held.values() if h.work.token == token), None)
        if held is None:
            self._bury(token).add(index)
            return []
        if held.state is HeldState.QUEUED:
            held.dropped.add(index)
            return []
        if held.state is not HeldState.RUNNING or index < held.done:
            return []
        if index == running and not held.killing:
            held.killing[index] = Kind.KILLED
            return self._kill(held.slots[0])
        held.dropped.add(index)
        return [Drop(held.slots[0], index)]

    def on_overtime(self, slot: int, index: int, kind: Kind) -> list[Effect]:
        """The task at `index` broke a limit (TIMED_OUT, OUT_OF_MEMORY): its slot must die."""
        held = self.by_slot.get(slot)
        if held is None or held.killing or not held.done <= index < held.end:
            return []
        held.killing[index] = kind
        return self._kill(slot)

    def _kill(self, slot: int) -> list[Effect]:
        """Once: by the time of a second order the slot may be another process."""
        if slot in self._down:
            return []
        self._down.add(slot)
        return [KillSlot(slot)]

    def on_session_gone(self, session: str, through: int = 0, *, finish: bool = False) -> list[Effect]:
        """Nobody waits for this session's work any more.

        `through`: the sequence up to which it was withdrawn; such a message may still come. `finish`: what runs goes on.
        """
        self._withdrawn[session] = max(through, self._withdrawn.get(session, 0))
        forget_oldest(self._withdrawn)
        effects: list[Effect] = []
        for held in [h for h in self.held.values() if h.work.session == session]:
            if finish and held.state is not HeldState.QUEUED:
                continue
            effects += self._abandon(held)
            effects.append(Ack(held))
        return effects + self.plan()

    def on_taken_back(self, token: int) -> list[Effect]:
        """The steward has given up this attempt as lost and removed its message: nobody waits for it."""
        effects: list[Effect] = []
        for held in [h for h in self.held.values() if h.work.token == token]:
            effects += self._abandon(held)
        return effects + self.plan()

    def on_disowned(self) -> list[Effect]:
        """The steward has declared this node lost and given its work to others: nothing here counts any more."""
        effects: list[Effect] = []
        for held in list(self.held.values()):
            effects += self._abandon(held)
        return effects + self.plan()

    def _abandon(self, held: Held) -> list[Effect]:
        was = held.state
        held.state = HeldState.GONE
        self.held.pop((held.lane, held.sequence), None)
        if was is HeldState.QUEUED:
            self.queue.remove(held)
        return self._kill(held.slots[0]) if was is HeldState.RUNNING else []

    def on_leave(self) -> list[Effect]:
        """The owner wants the machine back: take nothing new, hand back what waits, let what runs go on."""
        self.leaving = True
        return [self._hand_back(held) for held in list(self.queue)]

    def _hand_back(self, held: Held) -> Nak:
        """Nothing of it was started: let others have it. Orders that came for it are kept, it may come again."""
        self._abandon(held)
        if pulls := self._lanes.get(held.lane):
            pulls.pending = max(1, pulls.pending)  # it is there when there is room
        if held.dropped:
            self._bury(held.work.token).update(held.dropped)
        return Nak(held)

    def _bury(self, token: int) -> set[int]:
        """The indices of a message that must not start when it arrives."""
        indices = self._tombstones.setdefault(token, set())
        forget_oldest(self._tombstones)
        return indices

    def on_grace_over(self) -> list[Effect]:
        """What still runs is stopped and handed back, without blame."""
        return [effect for slot in self.by_slot for effect in self._kill(slot)]

    # ---- time

    def on_tick(self, now: float) -> list[Effect]:
        """Take back what a slot cannot start soon, and hand on what this node holds beyond its share."""
        effects: list[Effect] = []
        for slot, held in self.by_slot.items():
            held.long = now - held.started_at >= limits.LONG_RUN_S
            if now >= held.retract_at and held.end - held.done > 1 and slot not in self._down:
                held.retracting = True
                held.retract_at = now + limits.LONG_RUN_S  # a slot that still loads the batch does not answer
                effects.append(Retract(slot))
        effects += [self._hand_back(held) for held in self._surplus(now)]
        for spare in self.lending.useless(self.idle, now):
            self.idle.remove(spare)
            effects += self._kill(spare)
        self.lending.on_tick(self.idle, now)
        return effects + self._admit(now) + self.plan()

    def _surplus(self, now: float) -> list[Held]:
        """What others should have. What stands before deeper ones is kept longer: it would only come back at once."""
        can_start = [held for held in self.queue if self.lending.deep_enough(held)]
        keep = {id(held): limits.SHALLOW_KEEP_S for held in self.queue}
        keep |= {id(held): math.inf if i < self.share else limits.SURPLUS_S for i, held in enumerate(can_start)}
        return [held for held in self.queue if now - held.arrived_at >= keep[id(held)]]

    @property
    def quiet(self) -> bool:
        """Nothing is held: a leaving node may go."""
        return not self.held
