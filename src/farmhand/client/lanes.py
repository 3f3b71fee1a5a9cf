"""The lanes that a session submits to: made before the first publish, and given up when no node can ever serve them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from farmhand import errors
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId
from farmhand.model.messages import LaneRequest, LaneTable
from farmhand.model.needs import Lane
from farmhand.model.version import VERSION

if TYPE_CHECKING:
    from farmhand.client.driver import Driver

log = logging.getLogger("farmhand.client")


class Lanes:
    """Runs on the driver's loop."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._made: dict[LaneId, asyncio.Task[None]] = {}
        self._unserved: dict[LaneId, Lane] = {}  # made while no node was there to say which Python it offers

    def __contains__(self, lane: LaneId) -> bool:
        return lane in self._made

    def need(self, lane: Lane) -> None:
        """Have it made, unless that is done or under way."""
        if lane.id not in self._made:
            self._made[lane.id] = self._driver.spawn(self._prepare(lane))

    async def _prepare(self, lane: Lane) -> None:
        """Have the steward make the lane; ask until it answers, because nothing can be sent before."""
        driver = self._driver
        request = msgspec.msgpack.encode(LaneRequest(messages.PROTOCOL, VERSION, lane))
        answer = None
        while answer is None:
            try:
                answer = await driver.request("lane", request)
            except (errors.VersionMismatch, errors.BadNeed) as error:
                driver.break_all(error)
                return
            except (errors.EngineError, TimeoutError) as error:
                log.debug("lane %s not made yet: %s", lane.id, error)
                await asyncio.sleep(limits.RECONNECT_FIRST_S)
        if self._is_hopeless(lane, tuple(answer["pythons"])):
            return
        state = answer["state"]
        if not state["slots"] and state["lacking"]:
            log.warning(
                "no node can run tasks that need %s yet: %s",
                ", ".join(map(str, lane.needs)),
                "; ".join(state["lacking"]),
            )
        driver.on_slots([(lane.id, state["slots"])])

    def _is_hopeless(self, lane: Lane, offered: tuple[str, ...]) -> bool:
        """Whether no node speaks the lane's Python: its tasks end with an error. Without nodes it is too early to say."""
        if not offered:
            self._unserved[lane.id] = lane
            return False
        self._unserved.pop(lane.id, None)
        if not lane.python or lane.python in offered:
            return False
        self._made.pop(lane.id, None)  # a later submit asks again
        text = f"this client runs Python {lane.python}; the farm's nodes offer {', '.join(offered)}"
        text += f"; with env={lane.python!r} they build one"
        self._driver.fail_lane(lane.id, errors.NoNodeForPython(text))
        return True

    async def check(self, lane: LaneId) -> None:
        """Find out where the session's oldest work in the lane is, and tell the core."""
        driver = self._driver
        asked_at = driver.loop.time()
        try:
            oldest = await driver.request("oldest", f"{lane} {driver.session_id}".encode())
        except (errors.EngineError, TimeoutError):
            return
        driver.on_lane_checked(lane, asked_at, int(oldest))

    def on_table(self, table: LaneTable) -> None:
        """The steward's announcement: how many slots serve each lane now."""
        for lane in list(self._unserved.values()):
            self._is_hopeless(lane, table.pythons)
        known = ((LaneId(state.id), state.slots) for state in table.lanes)
        self._driver.on_slots(
            [(lane, slots) for lane, slots in known if lane in self._made and self._made[lane].done()]
        )
