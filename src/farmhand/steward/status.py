"""What `farmhand status` shows, gathered from heartbeats and the engine."""

from __future__ import annotations

from typing import Any

import msgspec

from farmhand.core.membership import Membership
from farmhand.engine import streams, subjects
from farmhand.engine.connection import Connection
from farmhand.model.messages import NodeBeat
from farmhand.model.version import VERSION


async def status_report(connection: Connection, membership: Membership, now: float) -> dict[str, Any]:
    """Nodes, sessions, lanes and the engine's streams, as plain data. Keys are stable: docs/reference/cli.md."""
    lanes = []
    for lane_id, known in list(membership.lanes.items()):  # others are made while the engine is asked
        info = await streams.lane_info(connection, lane_id) or {}
        lanes.append({
            "id": lane_id, "needs": [str(n) for n in known.lane.needs], "python": known.lane.python,
            "priority": known.lane.priority, "slots": known.slots, "waiting": info.get("num_pending", 0),
            "taken": info.get("num_ack_pending", 0), "lacking": list(known.lacking),
        })  # fmt: skip
    storage: dict[str, dict[str, Any]] = {}
    for name in subjects.STREAMS:
        try:
            state = await streams.stream_state(connection, name)
        except streams.ApiRefused as error:  # a lost stream must not hide everything else
            storage[name.lower()] = {"messages": 0, "bytes": 0, "error": str(error)}
        else:
            storage[name.lower()] = {"messages": state["messages"], "bytes": state["bytes"]}
    return {
        "version": VERSION,
        "engine": {"version": connection.server.get("version"), "storage": storage},
        "nodes": [_node(member.beat, max(0.0, now - member.seen_at)) for member in membership.nodes.values()],
        "sessions": [msgspec.to_builtins(member.beat) for member in membership.sessions.values()],
        "lanes": lanes,
    }


def _node(beat: NodeBeat, silent: float) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(beat)
    fields["silent"] = round(silent, 3)  # seconds since its last sign of life
    fields["holding"] = [
        {
            "task": h.name,
            "session": h.session,
            "number": h.number,
            "count": h.count,
            "running": h.running >= 0,
            "seconds": round(h.seconds, 3),
        }
        for h in beat.holding
    ]
    return fields
