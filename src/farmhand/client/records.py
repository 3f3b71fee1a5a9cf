"""Records of a named session's outcomes that were read over, and are wanted after all."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from farmhand import errors
from farmhand.client.results import Body
from farmhand.engine import subjects
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.named import Settled, read_settled
from farmhand.model.outcome import Kind, Mark

if TYPE_CHECKING:
    from farmhand.client.named import NamedDriver

log = logging.getLogger("farmhand.client")

_KEPT: Final = 16  # neighbours are asked for one after another


class Records:
    """Reads a record from the engine, and keeps the last few."""

    def __init__(self, driver: NamedDriver) -> None:
        self._driver = driver
        self._kept: OrderedDict[int, tuple[Settled, Body]] = OrderedDict()

    async def get(self, sequence: int) -> tuple[Settled, Body]:
        """The record at this place of the stream. Raises `SessionUnknown`."""
        known = self._kept.get(sequence)
        if known is not None:
            return known
        msg = await self._ask(msgspec.json.encode({"seq": sequence}))
        if msg.status:
            raise errors.SessionUnknown(f"the outcomes of session {self._driver.state.name!r} are gone: it was removed")
        header, body = messages.split(bytes(msg.data))
        settled = read_settled(header)
        self._kept[sequence] = settled, Body(settled, body)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[sequence]

    async def _ask(self, question: bytes) -> Msg:
        connection = self._driver.connection
        while True:
            try:
                return await connection.request(f"$JS.API.DIRECT.GET.{subjects.SESSION}", question)
            except (errors.EngineError, TimeoutError) as error:
                log.debug("a record is asked for again: %s", error)
                await asyncio.sleep(limits.RECONNECT_FIRST_S)
                await connection.wait_connected()


def positions_in(settled: Settled, marks: dict[int, tuple[Mark, int]]) -> list[int]:
    """Where in the body each task of a record has its entry, or would have."""
    found: list[int] = []
    position = 0
    for at in range(sum(count for _, _, count in settled.runs)):
        found.append(position)
        known = marks.get(at)
        position += known is None or known[0].kind is Kind.RAISED
    return found
