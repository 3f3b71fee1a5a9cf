"""What the queues are made of: the facts for `farmhand queues` and `farmhand explain`, asked of the engine."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from farmhand import errors
from farmhand.core.membership import Membership
from farmhand.engine import streams, subjects
from farmhand.engine.connection import Connection
from farmhand.model import limits, messages
from farmhand.model.messages import LaneState, Work

log = logging.getLogger("farmhand.steward")


class Queued(msgspec.Struct):
    """A work message that the engine has: waiting, or with a node and not acknowledged."""

    sequence: int
    work: Work
    at: float  # when it was stored, in seconds since 1970


class LaneFacts(msgspec.Struct):
    """A lane as steward and engine know it."""

    state: LaneState
    now: float  # the engine's clock
    waiting: int = 0  # messages that no node has
    taken: int = 0  # messages that were delivered and are not acknowledged
    delivered: int = 0  # the highest sequence that was ever delivered
    deliveries: int = 0  # since the lane was made, those of what was handed back included
    sessions: dict[str, int] = {}  # messages by session
    front: list[Queued] = []  # the first of them, in order

    @property
    def whole(self) -> bool:
        """Whether `front` is all there is."""
        return len(self.front) >= self.waiting + self.taken


class Budget:
    """What one question may cost in all: it must not keep the steward from its work."""

    def __init__(self) -> None:
        self._messages = limits.PEEK_TOTAL
        self._bytes = limits.PEEK_BYTES_TOTAL

    def spend(self, size: int) -> None:
        """A message of so many bytes was opened."""
        self._messages -= 1
        self._bytes -= size

    @property
    def spent(self) -> bool:
        """Nothing more may be opened, but for the first of each queue."""
        return self._messages <= 0 or self._bytes <= 0


async def lane_facts(connection: Connection, state: LaneState, limit: int, budget: Budget) -> LaneFacts:
    """What the engine says of a lane; `limit` messages are opened at most. Raises `EngineError`, `TimeoutError`."""
    info = await streams.lane_info(connection, state.id)
    if info is None:
        return LaneFacts(state, 0.0)
    facts = LaneFacts(state, streams.seconds(info["ts"]), int(info["num_pending"]), int(info["num_ack_pending"]),
                      int(info["delivered"]["stream_seq"]), int(info["delivered"]["consumer_seq"]))  # fmt: skip
    if facts.waiting or facts.taken:
        counted = await streams.messages_by_subject(connection, subjects.WORK, subjects.work(state.id, "*"))
        facts.sessions = {name.split(".")[2]: count for name, count in counted.items()}
        first = int(info["ack_floor"]["stream_seq"]) + 1
        facts.front = await peek(connection, subjects.work(state.id, "*"), limit, budget, first)
    return facts


async def peek(connection: Connection, subject: str, limit: int, budget: Budget, first: int = 1) -> list[Queued]:
    """The first `limit` work messages of a subject. Raises `EngineError`, `TimeoutError`."""
    found: list[Queued] = []
    while len(found) < limit and not (found and budget.spent):
        message = await streams.message_at(connection, subjects.WORK, first, subject)
        if message is None:
            break
        first = message.sequence + 1
        budget.spend(len(message.data))
        try:
            header, _ = messages.split(message.data)
            found.append(Queued(message.sequence, messages.read_work(header), message.at))
        except errors.BadMessage as error:
            log.warning("a work message cannot be read: %s", error)
    return found


async def facts_of_lanes(connection: Connection, membership: Membership, limit: int, budget: Budget) -> list[LaneFacts]:
    """Those of every lane. Others may be made while the engine is asked. Raises `EngineError`, `TimeoutError`."""
    return [await lane_facts(connection, state, limit, budget) for state in list(membership.lanes.values())]


async def queues_report(connection: Connection, membership: Membership) -> dict[str, Any]:
    """Every lane, as plain data. Keys are stable: docs/reference/cli.md."""
    facts = await facts_of_lanes(connection, membership, limits.PEEK_MAX, Budget())
    return {"lanes": [lane_document(lane) for lane in facts]}


def lane_document(lane: LaneFacts) -> dict[str, Any]:
    """One lane for people and programs. Numbers of tasks are estimates when not every message was opened."""
    state = lane.state
    mean = sum(q.work.count for q in lane.front) / len(lane.front) if lane.front else 0.0
    waiting = [q for q in lane.front if q.sequence > lane.delivered]
    taken = [q for q in lane.front if q.sequence <= lane.delivered]
    exact = lane.whole
    return {
        "id": state.id,
        "needs": [str(need) for need in state.lane.needs],
        "python": state.lane.python,
        "priority": state.lane.priority,
        "slots": state.slots,
        "lacking": list(state.lacking),
        "waiting": lane.waiting,
        "taken": lane.taken,
        "tasks_waiting": sum(q.work.count for q in waiting) if exact else round(lane.waiting * mean),
        "tasks_taken": sum(q.work.count for q in taken) if exact else round(lane.taken * mean),
        "tasks_estimated": not exact,
        "sessions": [{"session": name, "messages": count} for name, count in sorted(lane.sessions.items())],
        "oldest_seconds": age(lane, lane.front),
        "oldest_waiting_seconds": age(lane, waiting),
        "deliveries": lane.deliveries,
        "tasks_per_message": round(mean, 3),
    }


def age(lane: LaneFacts, queued: list[Queued]) -> float | None:
    """Seconds since the first of these was stored; None when there is none."""
    return round(max(0.0, lane.now - queued[0].at), 3) if queued else None
