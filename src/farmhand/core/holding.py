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

import enum
from collections import OrderedDict
from typing import Any, Final

import msgspec

from farmhand.model import limits
from farmhand.model.ids import LaneId
from farmhand.model.messages import Work
from farmhand.model.needs import Lane
from farmhand.model.outcome import Kind, Mark

TOMBSTONES_MAX: Final = 10_000  # orders to stop work that has not arrived; forgotten in order of age


class HeldState(enum.IntEnum):
    """Where a message is on this node."""

    QUEUED = 0
    RUNNING = 1
    STORING = 2  # every index is reported, a report is not yet stored
    GONE = 3


class Held:
    """One work message in hand. `cargo` is the shell's (the body, the ack subject)."""

    __slots__ = ("arrived_at", "cargo", "cpus", "done", "dropped", "end", "killing", "lane", "long", "priority",
                 "retract_at", "retracting", "sequence", "slots", "started_at", "state", "unstored", "work")  # fmt: skip

    def __init__(self, lane: Lane, sequence: int, work: Work, now: float, cargo: Any) -> None:
        self.lane: LaneId = lane.id
        self.cpus = max(1, round(lane.cpus))
        self.priority = lane.priority
        self.sequence = sequence
        self.work = work
        self.cargo = cargo
        self.arrived_at = now
        self.started_at = 0.0
        self.state = HeldState.QUEUED
        self.slots: list[int] = []  # the first runs it, the others stand still for it
        self.done = 0  # indices reported so far; they come in order
        self.end = work.count  # indices from here on were handed back
        self.unstored = 0  # reports under way to the engine
        self.dropped: set[int] = set()  # indices that must not start
        self.killing: dict[int, Kind] = {}  # why the slot is being killed, by index
        self.retracting = False  # the slot was asked to give back, and has not answered
        self.retract_at = 0.0  # when to ask it (again)
        self.long = False  # it has been running for long


class Pull(msgspec.Struct, frozen=True, gc=False):
    """Ask for one message of this lane; `wait` leaves the request open at the engine."""

    lane: LaneId
    wait: bool


class Start(msgspec.Struct, frozen=True, gc=False):
    """Give this message to its first slot."""

    held: Held


class Finish(msgspec.Struct, frozen=True, gc=False):
    """Report these indices; the body is empty. Say `on_stored` when the engine has it."""

    held: Held
    first: int
    count: int
    marks: tuple[Mark, ...]


class Ack(msgspec.Struct, frozen=True, gc=False):
    """The node is finished with this message."""

    held: Held


class Nak(msgspec.Struct, frozen=True, gc=False):
    """Give this message to another node."""

    held: Held


class Retract(msgspec.Struct, frozen=True, gc=False):
    """Take back from this slot what it has not started."""

    slot: int


class Drop(msgspec.Struct, frozen=True, gc=False):
    """Tell this slot not to start that index."""

    slot: int
    index: int


class KillSlot(msgspec.Struct, frozen=True, gc=False):
    """Kill this slot with all its processes; `on_slot_lost` follows."""

    slot: int


Effect = Pull | Start | Finish | Ack | Nak | Retract | Drop | KillSlot


class _LanePulls:
    __slots__ = ("asking", "lane", "open", "pending")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.open = 0  # long-poll requests at the engine
        self.asking = 0  # requests that answer at once
        self.pending = 0  # messages the engine still had, when it last said so


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
        self._down: set[int] = set()  # slots that are being killed or are gone, until they are ready again
        self._lanes: dict[LaneId, _LanePulls] = {}
        self._turn = 0
        self._tombstones: OrderedDict[int, set[int]] = OrderedDict()

    @property
    def share(self) -> int:
        """Messages that the node wants to have waiting: one for each idle slot, and a prefetched one for each that frees soon."""
        freeing = sum(not held.long for held in self.by_slot.values())
        wanted = len(self.idle) + (len(self.idle) + freeing) * limits.PREFETCH_PER_SLOT
        # A wide task at the head keeps its place however long it takes, or narrow ones would take each slot that frees.
        return max(wanted, 1) if self.queue and self.queue[0].cpus > 1 else wanted

    @property
    def busy(self) -> int:
        """Slots that run something or stand still for it."""
        return sum(len(held.slots) for held in self.by_slot.values())

    # ---- lanes and pulls

    def on_lanes(self, lanes: list[Lane]) -> list[Effect]:
        """These are all the lanes that this node serves now."""
        wanted = {lane.id: lane for lane in lanes if lane.cpus <= self.slots}
        for gone in set(self._lanes) - set(wanted):
            del self._lanes[gone]
        for lane_id, lane in wanted.items():
            self._lanes.setdefault(lane_id, _LanePulls(lane))
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
        """Requests to make now. The number of messages that can arrive stays near the node's share."""
        if self.leaving or not self._lanes:
            return []
        room = self.share - len(self.queue) - sum(p.asking for p in self._lanes.values())
        if len(self._lanes) == 1:
            return self._plan_single(next(iter(self._lanes.values())), room)
        effects: list[Effect] = []
        for pulls in self._known_work():
            while room > 0 and pulls.pending > 0:
                pulls.pending -= 1
                pulls.asking += 1
                room -= 1
                effects.append(Pull(pulls.lane.id, wait=False))
        if room > 0:
            for pulls in self._lanes.values():
                if not pulls.open:
                    pulls.open = 1
                    effects.append(Pull(pulls.lane.id, wait=True))
        return effects

    def _plan_single(self, pulls: _LanePulls, room: int) -> list[Effect]:
        """One lane: open requests are exactly what there is room for, so nothing ever has to be handed back."""
        missing = room - pulls.open
        if missing <= 0:
            return []
        pulls.open += missing
        return [Pull(pulls.lane.id, wait=True)] * missing

    def _known_work(self) -> list[_LanePulls]:
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
        held.dropped = self._tombstones.pop(work.token, set())
        self.held[(lane, sequence)] = held
        self.queue.append(held)
        # By its place in the stream, not by its arrival: one that was handed back and came again would always be the last,
        # and so be handed back again.
        self.queue.sort(key=lambda h: (-h.priority, h.sequence))
        return self._admit(now) + self.plan()

    def _admit(self, now: float) -> list[Effect]:
        """Start what can start. The first in the queue reserves slots as they free, so that a wide task is not starved."""
        effects: list[Effect] = []
        while self.queue and len(self.idle) >= self.queue[0].cpus:
            held = self._next(now)
            self.queue.remove(held)
            held.slots, self.idle = self.idle[: held.cpus], self.idle[held.cpus :]
            held.state = HeldState.RUNNING
            held.started_at = now
            held.retract_at = now + limits.OVERDUE_S
            self.by_slot[held.slots[0]] = held
            effects.append(Start(held))
        return effects

    def _next(self, now: float) -> Held:
        """The first in the queue, or one as urgent for which no slot must change its environment. Its slot stands first."""
        found = self.queue[0]
        wanted = found.work.profile.environment
        if not self._worn and not wanted:  # as nearly always
            return found
        worn = {self._worn.get(slot, "") for slot in self.idle}
        if wanted not in worn and now - found.arrived_at < limits.ENVIRONMENT_TURN_S:
            fitting = (h for h in self.queue if h.work.profile.environment in worn and h.cpus == 1)
            found = next((h for h in fitting if h.priority == found.priority), found)
            wanted = found.work.profile.environment
        self.idle.sort(key=lambda slot: self._worn.get(slot, "") != wanted)
        self._worn[self.idle[0]] = wanted
        return found

    # ---- slots

    def on_slot_ready(self, slot: int, now: float) -> list[Effect]:
        """A slot has started and waits for work, or goes on standing still for the task that reserved it."""
        self._down.discard(slot)
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
        if held is None:
            return []
        self._free(held)
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

    def on_session_gone(self, session: str) -> list[Effect]:
        """Nobody waits for this session's work any more."""
        effects: list[Effect] = []
        for held in [h for h in self.held.values() if h.work.session == session]:
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
        if held.dropped:
            self._bury(held.work.token).update(held.dropped)
        return Nak(held)

    def _bury(self, token: int) -> set[int]:
        """The indices of a message that must not start when it arrives."""
        indices = self._tombstones.setdefault(token, set())
        while len(self._tombstones) > TOMBSTONES_MAX:
            self._tombstones.popitem(last=False)
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
        surplus = [held for held in self.queue[self.share :] if now - held.arrived_at >= limits.SURPLUS_S]
        effects += [self._hand_back(held) for held in surplus]
        return effects + self.plan()

    @property
    def quiet(self) -> bool:
        """Nothing is held: a leaving node may go."""
        return not self.held
