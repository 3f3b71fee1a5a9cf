"""The records of a named session's outcomes, as they come and as they are asked for again."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Final

import msgspec

from farmhand import errors
from farmhand.client.results import Body
from farmhand.engine import subjects
from farmhand.engine.connection import Connection
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.named import Place, Settled, places_of, read_settled
from farmhand.model.outcome import Kind, Mark

log = logging.getLogger("farmhand.client")

_KEPT: Final = 16  # that were read again; neighbours are asked for one after another


class Record:
    """One record: what happened to each of its tasks. `body` is opened when it is first needed."""

    def __init__(self, data: bytes | memoryview) -> None:
        header, self._bytes = messages.split(data)
        self.settled: Settled = read_settled(header)
        self.body: Body
        self._marks: dict[int, tuple[Mark, int]] = {}
        self._positions: list[int] = []

    def open(self) -> None:
        """Make `mark` and `position` answer."""
        settled = self.settled
        self.body = Body(settled, self._bytes)
        self._marks = {mark.index: (mark, n) for mark, n in zip(settled.marks, settled.attempts, strict=False)}
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

    def position(self, at: int) -> int:
        """Where in the body its entry is."""
        return self._positions[at]


class Records:
    """Reads records again. Runs on the loop."""

    def __init__(self, connection: Connection, session: str) -> None:
        self._connection = connection
        self._session = session
        self._kept: OrderedDict[int, Record] = OrderedDict()

    async def at(self, sequence: int) -> Record:
        """The record at a sequence of the stream. Raises `SessionUnknown` when it is gone."""
        known = self._kept.get(sequence)
        if known is not None:
            return known
        msg = await self._get(msgspec.json.encode({"seq": sequence}))
        if msg.status:
            raise errors.SessionUnknown(f"the outcomes of session {self._session!r} are gone: it was removed")
        record = self._kept[sequence] = Record(bytes(msg.data))
        record.open()
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return record

    async def _get(self, question: bytes) -> Msg:
        while True:
            try:
                return await self._connection.request(f"$JS.API.DIRECT.GET.{subjects.SESSION}", question)
            except (errors.EngineError, TimeoutError) as error:
                log.debug("a record is asked for again: %s", error)
                await asyncio.sleep(limits.RECONNECT_FIRST_S)
                await self._connection.wait_connected()
