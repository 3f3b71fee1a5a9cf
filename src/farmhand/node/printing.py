"""Sends what tasks print to the engine, again after an outage, and never more than a node's memory can bear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farmhand import errors
from farmhand.engine import subjects
from farmhand.model import limits, messages
from farmhand.model.messages import Output, Work
from farmhand.node.slotwire import SlotOutput

if TYPE_CHECKING:
    from farmhand.node.agent import Agent


class Printing:
    """Runs on the agent's loop."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._count = 0  # messages
        self._unstored = 0  # bytes that the engine has not answered
        self._dropped: dict[int, int] = {}  # lines by slot that nobody has been told of

    def send(self, slot: int, work: Work, printed: SlotOutput) -> None:
        """Have the engine keep these lines, and whoever watches see them."""
        agent = self._agent
        dropped = self._dropped.pop(slot, 0) + printed.dropped
        if self._unstored >= limits.OUTPUT_UNSTORED_BYTES_MAX:
            self._dropped[slot] = dropped + len(printed.lines)
            return
        node = agent.config.node
        number = messages.number_at(work, printed.index)
        output = Output(work.token, printed.index, node, slot, work.profile.name, printed.lines, dropped, number)
        data = messages.encode(output)
        self._count += 1
        self._unstored += len(data)

        def done(_sequence: int, _error: errors.EngineError | None) -> None:
            self._unstored -= len(data)  # refused or not, there is nothing more to be done for it

        msg_id = f"{agent.incarnation}.{self._count}"
        agent.publisher.publish(subjects.output(work.session, node), data, done, msg_id=msg_id)
