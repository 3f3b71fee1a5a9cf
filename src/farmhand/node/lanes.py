"""The lanes that a node serves, and its requests for work to each of them.

A delivered message carries the subject it was published to, not the inbox it was asked from, so each lane has two
subscriptions: one for requests that stay open, one for those that the engine answers at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

import msgspec

from farmhand import errors
from farmhand.engine import subjects
from farmhand.engine.asking import ask_steward
from farmhand.engine.connection import Subscription
from farmhand.engine.wire import Msg
from farmhand.model import limits
from farmhand.model.ids import LaneId
from farmhand.model.messages import LaneTable
from farmhand.model.peers import check_peer

if TYPE_CHECKING:
    from farmhand.node.agent import Agent

log = logging.getLogger("farmhand.node")

_NO_WAIT: Final = msgspec.json.encode({"batch": 1, "no_wait": True})
_PULL_ENDED: Final = frozenset({404, 408})  # nothing there, time over
_PULL_REFUSED: Final = frozenset(
    {409, 503}
)  # the consumer changed, it is gone: the next one would hear the same at once


class Lanes:
    """Keeps the holder's list of lanes in step with the steward's table."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.refusal = ""  # why this node takes no work from this farm
        self._inboxes: dict[LaneId, tuple[Subscription, Subscription]] = {}
        self._due: dict[tuple[LaneId, bool], deque[float]] = defaultdict(
            deque
        )  # when each open pull must have been answered

    async def refresh(self) -> None:
        """Ask the steward for the table. When it does not answer, its next announcement will do."""
        connection = self._agent.connection
        try:
            hello = await ask_steward(connection, "hello")
            address = connection.options.address
            check_peer(f"the farm at {address}", hello["version"], hello["protocol"], f"node {self._agent.config.name}")
            self.refusal = ""
            self._serve(msgspec.convert(await ask_steward(connection, "lanes"), LaneTable))
        except errors.VersionMismatch as error:
            if not self.refusal:
                log.error("no work is taken: %s", error)  # noqa: TRY400 - where it was found tells nobody anything
            self.refusal = str(error)
            self._serve(LaneTable(()))
        except (errors.EngineError, TimeoutError, msgspec.ValidationError) as error:
            log.debug("no table of lanes from the steward: %s", error)

    def on_table(self, table: LaneTable) -> None:
        """The steward's table of lanes, as it says it to all. After one of another version it may be a new one: ask it."""
        if self.refusal:
            self._agent.spawn(self.refresh())
        else:
            self._serve(table)

    def _serve(self, table: LaneTable) -> None:
        """Serve those lanes whose needs this node meets."""
        config = self._agent.config
        python = own_python()
        mine = [s.lane for s in table.lanes if not s.lane.lacks(config.capabilities, (python,))]
        wanted = {lane.id for lane in mine}
        for gone in set(self._inboxes) - wanted:
            for subscription in self._inboxes.pop(gone):
                subscription.close()
        for lane in wanted - set(self._inboxes):
            self._inboxes[lane] = (self._listen(lane, wait=True), self._listen(lane, wait=False))
        self._agent.carry_out(self._agent.holder.on_lanes(mine))

    def _listen(self, lane: LaneId, *, wait: bool) -> Subscription:
        agent = self._agent

        def on_msg(msg: Msg) -> None:
            if due := self._due[lane, wait]:
                due.popleft()
            if not msg.status:
                agent.on_work(lane, msg, wait=wait)
            elif msg.status in _PULL_ENDED or msg.status in _PULL_REFUSED:
                refused = msg.status in _PULL_REFUSED
                agent.carry_out(agent.holder.on_pull_ended(lane, wait=wait, refused=refused))

        return agent.connection.subscribe(self._inbox(lane, wait=wait), on_msg)

    def _inbox(self, lane: LaneId, *, wait: bool) -> str:
        return f"{self._agent.config.options.inbox}.{'w' if wait else 'n'}.{lane}"

    def pull(self, lane: LaneId, *, wait: bool) -> None:
        """Ask for one message."""
        connection = self._agent.connection
        subject = f"$JS.API.CONSUMER.MSG.NEXT.WORK.{subjects.consumer(lane)}"
        seconds = (limits.CLUSTER_PULL_S if connection.servers.many else limits.FREE_PULL_S) if wait else 0.0
        body = msgspec.json.encode({"batch": 1, "expires": int(seconds * 1e9)}) if wait else _NO_WAIT
        self._due[lane, wait].append(asyncio.get_running_loop().time() + seconds + limits.LOST_PULL_S)
        connection.publish(subject, body, reply=self._inbox(lane, wait=wait))

    def ask_again(self) -> None:
        """Open pulls are lost: with the connection, or with a server that died."""
        self._due.clear()
        self._agent.carry_out(self._agent.holder.on_connected())

    def give_up_lost(self) -> None:
        """Ask again where no answer came: in a cluster a pull dies with the server that had it, and nobody says so."""
        now, agent = asyncio.get_running_loop().time(), self._agent
        for (lane, wait), due in list(self._due.items()):
            while due and due[0] < now:
                due.popleft()
                agent.carry_out(agent.holder.on_pull_ended(lane, wait=wait))


def own_python() -> str:
    """This interpreter's minor version, for example `3.11`."""
    import sys

    return f"{sys.version_info.major}.{sys.version_info.minor}"
