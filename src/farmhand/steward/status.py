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
    """Nodes, sessions, lanes and the engine's streams, as plain data. Keys are stable; docs/reference describes them."""
    lanes = []
    for lane_id, state in membership.lanes.items():
        info = await streams.lane_info(connection, lane_id) or {}
        lanes.append({
            "id": lane_id, "needs": [str(n) for n in state.lane.needs], "python": state.lane.python,
            "priority": state.lane.priority, "slots": state.slots, "waiting": info.get("num_pending", 0),
            "taken": info.get("num_ack_pending", 0), "lacking": list(state.lacking),
        })  # fmt: skip
    storage = {}
    for name in (subjects.WORK, subjects.RESULT, subjects.BLOB):
        state_of = await streams.stream_state(connection, name)
        storage[name.lower()] = {"messages": state_of["messages"], "bytes": state_of["bytes"]}
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
        {"task": h.name, "session": h.session, "count": h.count, "running": h.running >= 0, "seconds": round(h.seconds, 3)}
        for h in beat.holding
    ]
    return fields
