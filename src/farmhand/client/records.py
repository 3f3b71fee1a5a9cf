"""The records of a named session's outcomes, as they come and as they are asked for again."""

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
from farmhand.model.named import Block, Place, Settled, places_of, read_block, read_settled
from farmhand.model.outcome import Kind, Mark

if TYPE_CHECKING:
    from farmhand.client.named import NamedDriver

log = logging.getLogger("farmhand.client")

_KEPT: Final = 16  # neighbours are asked for one after another
_AT_ONCE: Final = 8  # requests under way: records may be large


class Record:
    """One record: what happened to each of its tasks. `body` is opened when it is first needed."""

    def __init__(self, data: bytes | memoryview) -> None:
        header, self._bytes = messages.split(data)
        self.settled: Settled = read_settled(header)
        self.body: Body
        self._marks: dict[int, tuple[Mark, int]] = {}
        self._positions: list[int] = []
        self._causes: dict[int, Place] = {}

    def open(self) -> None:
        """Make `mark` and `position` answer."""
        settled = self.settled
        self.body = Body(settled, self._bytes)
        attempts = dict(enumerate(settled.attempts))  # a withdrawn task had none
        self._marks = {mark.index: (mark, attempts.get(at, 0)) for at, mark in enumerate(settled.marks)}
        self._causes = {at: (block, index) for at, block, index in settled.causes}
        position = 0
        for at in range(sum(count for _, _, count in settled.runs)):
            self._positions.append(position)
            known = self._marks.get(at)
            position += known is None or known[0].kind is Kind.RAISED

    def places(self) -> list[Place]:
        """Its tasks, in order."""
        return list(places_of(self.settled.runs))

    def mark(self, at: int) -> tuple[Mark | None, int]:
        """What happened to the task at that position, None for success; and in which attempt."""
        return self._marks.get(at, (None, 0))

    def cause(self, at: int) -> Place | None:
        """The input because of which the task at that position did not run."""
        return self._causes.get(at)

    def position(self, at: int) -> int:
        """Where in the body its entry is."""
        return self._positions[at]


class Records:
    """Reads records from the engine, each once for all that wait for it, and keeps the last few. Used on the loop only."""

    def __init__(self, driver: NamedDriver) -> None:
        self._driver = driver
        self._kept: OrderedDict[int, Record] = OrderedDict()
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
                    record = await self._record(sequence)
                except errors.FarmhandError as error:
                    wanted = self._wanted.pop(sequence)
                    for _, future in wanted:
                        driver.results.fail(future, error)
                else:
                    wanted = self._wanted.pop(sequence)
                    at = {place: number for number, place in enumerate(record.places())}
                    driver.settle(record, [(at[place], future) for place, future in wanted])
                driver.on_fetched(future for _, future in wanted)
        finally:
            self._readers -= 1

    async def block(self, sequence: int) -> Block | None:
        """A block's header; None when it is not there."""
        msg = await self._ask(msgspec.json.encode({"seq": sequence}))
        return None if msg.status else read_block(messages.split(msg.data)[0])

    async def _record(self, sequence: int) -> Record:
        known = self._kept.get(sequence)
        if known is not None:
            return known
        msg = await self._ask(msgspec.json.encode({"seq": sequence}))
        if msg.status:
            raise errors.SessionUnknown(f"the outcomes of session {self._driver.state.name!r} are gone: it was removed")
        record = self._kept[sequence] = Record(bytes(msg.data))
        record.open()
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return record

    async def _ask(self, question: bytes) -> Msg:
        connection = self._driver.connection
        while True:
            try:
                return await connection.request(f"$JS.API.DIRECT.GET.{subjects.SESSION}", question)
            except (errors.EngineError, TimeoutError) as error:
                log.debug("a record is asked for again: %s", error)
                await asyncio.sleep(limits.RECONNECT_FIRST_S)
                await connection.wait_connected()
