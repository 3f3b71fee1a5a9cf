"""The records that a holder keeps: messages in hand, and requests for more. And what it wants done with them."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from farmhand.model.ids import LaneId
from farmhand.model.messages import Work
from farmhand.model.needs import Lane
from farmhand.model.outcome import Kind, Mark


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


class LanePulls:
    """What the node has asked for in one lane."""

    __slots__ = ("asking", "lane", "open", "pending")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.open = 0  # long-poll requests at the engine
        self.asking = 0  # requests that answer at once
        self.pending = 0  # messages the engine still had, when it last said so


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


class StartSpare(msgspec.Struct, frozen=True, gc=False):
    """Start a process beyond those of the slots, under this number; `on_slot_ready` or `on_slot_lost` follows."""

    slot: int


class RefuseWait(msgspec.Struct, frozen=True, gc=False):
    """Tell this slot that its task may not wait: too many do."""

    slot: int


Effect = Pull | Start | Finish | Ack | Nak | Retract | Drop | KillSlot | StartSpare | RefuseWait
