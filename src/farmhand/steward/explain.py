"""Why a task does not run: which nodes lack what, what is ahead of it, and what only its client can know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from farmhand.core.membership import Membership
from farmhand.engine import streams, subjects
from farmhand.engine.connection import Connection
from farmhand.model import limits, messages
from farmhand.model.asked import Asked, understand
from farmhand.model.ids import LaneId
from farmhand.model.messages import Holding, NodeBeat
from farmhand.steward.queues import Budget, LaneFacts, Queued, age, facts_of_lanes, peek

_SILENT_S = 1.5  # a node that was not heard of for three heartbeats is worth a word
_FULL_SHARE = 0.99


async def explain(connection: Connection, membership: Membership, text: str, now: float) -> dict[str, Any]:
    """The answer for a task, a session, a name, or for all that waits when `text` is empty. Keys are stable.

    Raises: `BadOption` when several sessions begin so, `EngineError`, `TimeoutError`.
    """
    budget = Budget()
    lanes = await facts_of_lanes(connection, membership, limits.EXPLAIN_MAX, budget)
    known = {*membership.sessions, *(session for lane in lanes for session in lane.sessions)}
    asked = understand(text, known)
    found: list[dict[str, Any]] = []
    for lane in lanes:
        if asked.session and asked.session not in lane.sessions:
            continue
        queued = lane.front
        if asked.session and not lane.whole:  # deeper in the queue than we look
            queued = await peek(connection, subjects.work(lane.state.id, asked.session), limits.EXPLAIN_MAX, budget)
        view = _LaneView(lane, lanes, membership, now)
        found += view.entries(asked, queued)
    return {
        "asked": {"session": asked.session, "number": asked.number, "name": asked.name},
        "found": found,
        "farm": await _farm(connection, membership),
        "notes": _notes(asked, found, membership),
    }


async def _farm(connection: Connection, membership: Membership) -> dict[str, Any]:
    full = []
    for name in (subjects.WORK, subjects.BLOB):
        info = await streams.call(connection, f"STREAM.INFO.{name}")
        used, most = int(info["state"]["bytes"]), int(info["config"].get("max_bytes", -1))
        if 0 < most * _FULL_SHARE < used:
            full.append(name.lower())
    beats = [node.beat for node in membership.nodes.values()]
    return {
        "nodes": len(beats),
        "slots": sum(beat.slots for beat in beats),
        "busy": sum(beat.busy for beat in beats),
        "full": full,
    }


def _notes(asked: Asked, found: list[dict[str, Any]], membership: Membership) -> list[str]:
    """What there is to say of tasks that the farm does not have."""
    if not asked.session:
        if found or not asked.name:
            return []
        return [f"The farm has no task named {asked.name!r}: done, not sent yet by its client, or never submitted."]
    member = membership.sessions.get(asked.session)
    if member is None and found:
        return [f"The client of session {asked.session} is away."]
    if member is None:
        return [
            f"No session {asked.session} is here: it is over, and what waited of it was withdrawn, or it never was."
        ]
    beat = member.beat
    where = f"{beat.user}@{beat.host}, process {beat.pid}"
    counts = f"{beat.waiting:,} tasks wait in the client itself, {beat.running:,} are with the farm"
    notes = [f"Session {asked.session} is alive ({where}): {counts}, {beat.done + beat.failed:,} are done."]
    if not found and (asked.number or asked.name):
        notes.append(
            f"The farm does not have {asked}: it is done, or it waits in its client for its turn or for its next try after a "
            "failure. Until when, only the client knows."
        )
    elif beat.waiting and not asked.number:
        notes.append("A client sends three batches for each slot that serves the lane, and more as they are done.")
    return notes


class _LaneView:
    """One lane among the others, for people."""

    def __init__(self, lane: LaneFacts, lanes: list[LaneFacts], membership: Membership, now: float) -> None:
        self._lane = lane
        self._held: dict[int, tuple[NodeBeat, Holding]] = {}
        for node in membership.nodes.values():
            for holding in node.beat.holding:
                if holding.lane == lane.state.id:
                    self._held[holding.sequence] = (node.beat, holding)
        self._nodes = [self._node(node.beat, now - node.seen_at) for node in membership.nodes.values()]
        self._others = [
            self._other(other) for other in lanes if other is not lane and self._competes(other, membership)
        ]

    def entries(self, asked: Asked, queued: Iterable[Queued]) -> list[dict[str, Any]]:
        """What is asked for and in this lane: an entry for each message, or one for all that waits of a session and name."""
        groups: dict[tuple[str, str, int], list[Queued]] = {}
        for one in queued:
            if asked.session and one.work.session != asked.session:
                continue
            numbers = range(one.work.count)
            if not any(asked.wants(one.work.profile.name, messages.number_at(one.work, i)) for i in numbers):
                continue
            waits = one.sequence > self._lane.delivered
            key = (one.work.session, one.work.profile.name, 0 if waits else one.sequence)
            groups.setdefault(key, []).append(one)
        return [self._entry(asked, group) for group in groups.values()]

    def _entry(self, asked: Asked, group: list[Queued]) -> dict[str, Any]:
        first, lane, state = group[0], self._lane, self._lane.state
        beat, holding = self._held.get(first.sequence, (None, None))
        runs = holding is not None and holding.running >= 0 and asked.number in (0, holding.number)
        taken = first.sequence <= lane.delivered
        numbers = [messages.number_at(one.work, i) for one in group for i in range(one.work.count)]
        entry: dict[str, Any] = {
            "session": first.work.session,
            "name": first.work.profile.name,
            "number": asked.number or (holding.number if holding is not None and runs else 0),
            "first_number": min(numbers),
            "last_number": max(numbers),
            "state": "running" if runs else "taken" if taken else "waiting",
            "messages": len(group),
            "tasks": len(numbers),
            "attempt": max(one.work.attempt for one in group),
            "seconds": age(lane, group),
            "running_seconds": round(holding.seconds, 3) if holding is not None and runs else None,
            "node": beat.name if beat is not None else "",
            "lane": state.id,
            "needs": [str(need) for need in state.lane.needs],
            "python": state.lane.python,
            "priority": state.lane.priority,
            "ahead": self._ahead(first) if not taken else None,
            "nodes": self._nodes,
            "other_lanes": self._others,
        }
        entry["reasons"] = self._reasons(entry, holding)
        return entry

    # ---- what is so

    def _node(self, beat: NodeBeat, silent: float) -> dict[str, Any]:
        lane = self._lane.state.lane
        lacks = list(lane.lacks(beat.capabilities, (beat.python,)))
        wide = max(1, round(lane.cpus))
        if not lacks and wide > beat.slots:
            lacks.append(f"has {beat.slots} of the {wide} slots that it takes")
        runs = [
            {"task": h.name, "session": h.session, "number": h.number, "seconds": round(h.seconds, 3)}
            for h in beat.holding
            if h.running >= 0
        ]
        return {
            "name": beat.name,
            "serves": not lacks and not beat.leaving,
            "lacks": lacks,
            "leaving": beat.leaving,
            "silent": round(max(0.0, silent), 3),
            "slots": beat.slots,
            "ready": beat.ready,
            "busy": beat.busy,
            "runs": runs,
        }

    def _competes(self, other: LaneFacts, membership: Membership) -> bool:
        """Whether messages of that lane wait for the same nodes, and are not less urgent."""
        if not other.waiting or other.state.lane.priority < self._lane.state.lane.priority:
            return False
        return bool(
            set(membership.serving(LaneId(other.state.id))) & set(membership.serving(LaneId(self._lane.state.id)))
        )

    @staticmethod
    def _other(lane: LaneFacts) -> dict[str, Any]:
        state = lane.state
        needs = [str(need) for need in state.lane.needs]
        return {"id": state.id, "needs": needs, "priority": state.lane.priority, "waiting": lane.waiting}

    def _ahead(self, first: Queued) -> dict[str, Any]:
        """Messages of this lane that come before, by session. Those that nodes have are not counted."""
        before = [q for q in self._lane.front if self._lane.delivered < q.sequence < first.sequence]
        sessions: dict[str, int] = {}
        for one in before:
            sessions[one.work.session] = sessions.get(one.work.session, 0) + 1
        beyond = bool(self._lane.front) and first.sequence > self._lane.front[-1].sequence
        return {
            "messages": len(before),
            "tasks": sum(one.work.count for one in before),
            "sessions": sessions,
            "at_least": beyond and not self._lane.whole,
        }

    # ---- in words

    def _reasons(self, entry: dict[str, Any], holding: Holding | None) -> list[str]:
        if entry["state"] == "running":
            return [f"It runs on {entry['node']} since {entry['running_seconds']:.1f} s."]
        if entry["state"] == "taken":
            if holding is None:
                return [
                    "It was given to a node, and none says that it has it: it is on its way, or was just handed back."
                ]
            busy = f"the slot is at number {holding.number}" if holding.running >= 0 else "no slot is free for it yet"
            return [f"Node {entry['node']} has it, and {busy}."]
        serving = [node for node in self._nodes if node["serves"]]
        if not serving:
            return self._unserved()
        return [*_busy(serving), *_order(entry, serving), *_trouble(serving)]

    def _unserved(self) -> list[str]:
        if not self._nodes:
            return ["There is no node; `farmhand join` adds one."]
        said = [f"Node {node['name']} {' and '.join(node['lacks'])}." for node in self._nodes if node["lacks"]]
        said += [f"Node {node['name']} is leaving." for node in self._nodes if node["leaving"] and not node["lacks"]]
        return ["No node serves it.", *said]


def _busy(serving: list[dict[str, Any]]) -> list[str]:
    slots, busy = (sum(node[key] for node in serving) for key in ("slots", "busy"))
    if busy < slots:
        return [f"{slots - busy} of {slots} slots that serve it are free."]
    runs = sorted(
        ((run["seconds"], node["name"], run) for node in serving for run in node["runs"]), key=lambda r: -r[0]
    )
    longest = [
        f"{run['task'] or 'task'} {run['session']}/{run['number']} on {name} since {seconds:.1f} s"
        for seconds, name, run in runs[:3]
    ]
    rest = f", and {len(runs) - 3} more" if len(runs) > 3 else ""
    return [f"All {slots} slots that serve it are busy" + (f": {'; '.join(longest)}{rest}." if runs else ".")]


def _order(entry: dict[str, Any], serving: list[dict[str, Any]]) -> list[str]:
    ahead, said = entry["ahead"], []
    if ahead["messages"]:
        whose = ", ".join(f"{count} of {name}" for name, count in sorted(ahead["sessions"].items()))
        what = f"{_many(ahead['messages'], 'message')} with {_many(ahead['tasks'], 'task')}"
        said.append(f"Ahead in its lane: {'at least ' if ahead['at_least'] else ''}{what} ({whose}).")
    for other in entry["other_lanes"]:
        how = "more urgent" if other["priority"] > entry["priority"] else "in turn with it"
        what = f"{_many(other['waiting'], 'message')} with other needs ({', '.join(other['needs']) or 'nothing'})"
        said.append(f"For the same nodes, {how}: {what}, priority {other['priority']}.")
    if not said and any(node["busy"] < node["slots"] for node in serving):
        said.append(
            "Nothing is ahead of it, so it starts in a moment; if it does not, `farmhand doctor` looks for the reason."
        )
    return said


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _trouble(serving: list[dict[str, Any]]) -> list[str]:
    said = [
        f"Node {node['name']} is silent for {node['silent']:.1f} s." for node in serving if node["silent"] > _SILENT_S
    ]
    said += [
        f"Node {node['name']} has started {node['ready']} of its {node['slots']} slots."
        for node in serving
        if node["ready"] < node["slots"]
    ]
    return said
