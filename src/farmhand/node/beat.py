"""A node's heartbeat: what the steward and `farmhand status` know of it."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from farmhand.core import holding
from farmhand.model import messages
from farmhand.model.messages import Holding, NodeBeat
from farmhand.model.version import VERSION
from farmhand.node import monitor

if TYPE_CHECKING:
    from farmhand.node.agent import Agent


def holdings_of(agent: Agent) -> tuple[Holding, ...]:
    """The work messages that the node has and has not finished."""
    now, found = agent.now(), []
    for held in agent.holder.held.values():
        work, running, seconds = held.work, -1, 0.0
        if held.state is holding.HeldState.RUNNING:
            running, seconds = agent.slots[held.slots[0]].running()[0], now - held.started_at
        number = messages.number_at(work, running) if running >= 0 else 0
        found.append(Holding(held.lane, held.sequence, work.session, work.token, work.count, work.profile.name,
                             running, seconds, number))  # fmt: skip
    return tuple(found)


def beat_of(agent: Agent) -> NodeBeat:
    """The node as it is now."""
    config, holder = agent.config, agent.holder
    return NodeBeat(
        messages.PROTOCOL, VERSION, config.node, config.name, agent.incarnation, platform.node(), os.getpid(),
        config.slots, holder.busy, ".".join(platform.python_version_tuple()[:2]), config.capabilities,
        holdings_of(agent), agent.runs, agent.failures, agent.cpu_seconds, agent.total_seconds, agent.bytes_in,
        agent.bytes_out, agent.cache.fetches, holder.leaving, monitor.memory(os.getpid()),
        tuple(slot.pid for slot in agent.slots.values() if slot.pid), sum(slot.ready for slot in agent.slots.values()),
    )  # fmt: skip
