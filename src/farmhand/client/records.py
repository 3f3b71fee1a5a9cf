"""Records of a named session's outcomes that were read over, and are wanted after all."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from farmhand import errors
from farmhand.client.futures import FarmFuture
from farmhand.client.results import Body
from farmhand.engine import subjects
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.named import Place, Settled, places_of, read_settled
from farmhand.model.outcome import Kind, Mark

if TYPE_CHECKING:
    from farmhand.client.named import NamedDriver

log = logging.getLogger("farmhand.client")

_KEPT: Final = 16  # neighbours are asked for one after another
_AT_ONCE: Final = 8  # requests under way: records may be large


class Records:
    """Reads records from the engine, each once for all that wait for it, and keeps the last few. Used on the loop only."""

    def __init__(self, driver: NamedDriver) -> None:
        self._driver = driver
        self._kept: OrderedDict[int, tuple[Settled, Body]] = OrderedDict()
        self._wanted: dict[int, list[tuple[Place, FarmFuture[Any]]]] = {}
        self._queue: deque[int] = deque()
        self._readers = 0

    def want(self, sequence: int, place: Place, future: FarmFuture[Any]) -> None:
        """The outcome of this task is in that record: end its future with it."""
        waiting = self._wanted.setdefault(sequence, [])
        waiting.append((place, future))
        if len(waiting) > 1:
            return
        self._queue.append(sequence)
        if self._readers < _AT_ONCE:
            self._readers += 1
            self._driver.spawn(self._read_all())

    async def _read_all(self) -> None:
        driver = self._driver
        try:
            while self._queue:
                sequence = self._queue.popleft()
                try:
                    settled, body = await self._record(sequence)
                except errors.FarmhandError as error:
                    wanted = self._wanted.pop(sequence)
                    for _, future in wanted:
                        driver.results.fail(future, error)
                else:
                    wanted = self._wanted.pop(sequence)
                    at = {place: number for number, place in enumerate(places_of(settled.runs))}
                    driver.settle(settled, body, [(at[place], future) for place, future in wanted])
                driver.on_fetched(future for _, future in wanted)
        finally:
            self._readers -= 1

    async def _record(self, sequence: int) -> tuple[Settled, Body]:
        known = self._kept.get(sequence)
        if known is not None:
            return known
        msg = await self._ask(msgspec.json.encode({"seq": sequence}))
        if msg.status:
            raise errors.SessionUnknown(f"the outcomes of session {self._driver.state.name!r} are gone: it was removed")
        header, body = messages.split(bytes(msg.data))
        settled = read_settled(header)
        found = self._kept[sequence] = settled, Body(settled, body)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found

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
