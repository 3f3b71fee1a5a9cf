"""Giving back the work of nodes that are gone.

A work message that was delivered, is not acknowledged, and that no living node holds, has nobody. The steward reports it
as lost to its session and removes it; the session sends its tasks again under a new token. The order matters: first the
report is stored, then the message is removed, so that a steward killed in between only repeats itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from farmhand import errors
from farmhand.core.membership import Membership, orphans
from farmhand.engine import streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.stored import Publisher
from farmhand.model import messages
from farmhand.model.ids import LaneId
from farmhand.model.messages import Holding, Report
from farmhand.model.outcome import Kind, Mark
from farmhand.model.peers import readable_work

log = logging.getLogger("farmhand.steward")

_ROUTE_S = 0.05  # two servers' words to a node may overtake each other; this much is allowed for
_ASK_S = 1.0  # a living node answers in a millisecond
_SWEEPS_MAX = 30  # tries for a lane whose nodes do not all answer; then ack_wait does it


class Charge(Protocol):
    """A steward's right to act, where there are several."""

    fence: tuple[str, int]  # a subject, and the sequence that its newest message has while the right lasts

    def check(self) -> None:
        """Raise `Deposed` when it has ended."""


class Recovery:
    """Sweeps lanes for work that has nobody. Sweeps run one after another; asking for one more while one waits is free."""

    def __init__(
        self, connection: Connection, publisher: Publisher, membership: Membership, charge: Charge | None = None
    ) -> None:
        self._charge = charge  # in a cluster
        self._connection = connection
        self._publisher = publisher
        self._membership = membership
        self._lock = asyncio.Lock()
        self._wanted = False
        self.not_before = (
            0.0  # after an outage nodes need a while to come back, and work of those unheard is not orphaned
        )

    async def sweep(self) -> None:
        """Look through every lane."""
        if self._wanted:
            return
        self._wanted = True
        async with self._lock:
            self._wanted = False
            lanes = list(self._membership.lanes)
            for _ in range(_SWEEPS_MAX):
                await asyncio.sleep(max(0.0, self.not_before - asyncio.get_running_loop().time()))
                lanes = [lane for lane in lanes if not await self._sweep_lane(lane)]
                if not lanes:
                    return
                await asyncio.sleep(_ASK_S / 2)

    async def _sweep_lane(self, lane: LaneId) -> bool:
        """Report one lane's orphans. False when a living node did not say what it holds, or the engine did not answer."""
        try:
            delivered = await self._delivered(lane)
            if not delivered:
                return True
            if self._connection.servers.many:
                await asyncio.sleep(_ROUTE_S)
            # Asked after the engine: a message that was delivered before our question is ahead of it on the node's connection.
            holdings = await self._holdings(lane)
            if holdings is None:
                return False
            for sequence in orphans(delivered, holdings, lane):
                await self._give_back(sequence)
        except errors.Deposed:
            raise
        except (errors.EngineError, TimeoutError) as error:
            log.warning("lane %s could not be swept: %s", lane, error)
            return False
        return True

    async def _delivered(self, lane: LaneId) -> list[int]:
        """Sequences of a lane that were delivered and are still there."""
        info = await streams.lane_info(self._connection, lane)
        if info is None or not info["num_ack_pending"]:
            return []
        at, last = int(info["ack_floor"]["stream_seq"]) + 1, int(info["delivered"]["stream_seq"])
        found: list[int] = []
        while at <= last:
            message = await streams.message_at(self._connection, subjects.WORK, at, subjects.work(lane, "*"))
            if message is None or message.sequence > last:
                break
            found.append(message.sequence)
            at = message.sequence + 1
        return found

    async def _holdings(self, lane: LaneId) -> list[Holding] | None:
        """What the living nodes of a lane hold; None when one of them does not answer."""
        found: list[Holding] = []
        for node in self._membership.serving(lane):
            try:
                msg = await self._connection.request(subjects.control_of_node(node), timeout=_ASK_S)
            except (errors.NoResponder, TimeoutError):
                if node in self._membership.nodes:
                    return None
                continue  # declared lost meanwhile
            found += messages.read_holdings(msg.data)
        return found

    async def _give_back(self, sequence: int) -> None:
        message = await streams.message_at(self._connection, subjects.WORK, sequence)
        if message is None:
            return
        header, _ = messages.split(message.data)
        work = readable_work(header)
        marks = tuple(Mark(index, Kind.LOST, "its node is gone") for index in range(work.count))
        report = Report(
            messages.PROTOCOL,
            work.token,
            0,
            work.count,
            subjects.STEWARD,
            -1,
            marks,
            origin=work.origin,
            sequence=message.sequence,
        )
        subject = subjects.result(work.session, subjects.STEWARD)
        fence = self._charge.fence if self._charge else None
        await self._publisher.store(subject, messages.pack(report), msg_id=f"{work.token}.lost", fence=fence)
        if self._charge is not None:
            self._charge.check()
        self._membership.on_given_back(work.token)
        await streams.delete_message(self._connection, subjects.WORK, sequence)
        log.info("gave back %d task(s) of session %s", work.count, work.session)
