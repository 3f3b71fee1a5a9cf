"""The blocks of a named session as its caretaker reads them: in order, each when all is known that tells second copies apart."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from farmhand import errors
from farmhand.core.copies import Copies
from farmhand.engine import subjects
from farmhand.engine.connection import Connection
from farmhand.engine.ordered import OrderedReader
from farmhand.model import limits
from farmhand.model.named import HEADER

log = logging.getLogger("farmhand.steward")

Take = Callable[[int, str, bytes | memoryview, str], range]


class Blocks:
    """Calls `take(sequence, subject, data, id)` for each block from `first` on.

    It returns where ids are missing (`Copies.missing`): then these are read, and it is called once more for the same block.
    """

    def __init__(self, connection: Connection, session: str, take: Take, copies: Copies, first: int) -> None:
        self._connection = connection
        self._subject = subjects.backlog(session, "*")
        self._take = take
        self._copies = copies
        self._waiting: deque[tuple[int, str, bytes | memoryview, str]] = deque()
        self._looking: asyncio.Task[None] | None = None
        self._reader = OrderedReader(connection, subjects.SESSION, self._subject, self._on_block, first)

    async def start(self) -> None:
        """Begin to read. Raises what the engine says."""
        await self._reader.start()

    async def caught_up(self) -> None:
        """As `OrderedReader.caught_up`."""
        await self._reader.caught_up()
        while self._looking is not None:
            await self._looking

    def close(self) -> None:
        """Read no more."""
        self._reader.close()
        self._waiting.clear()
        if self._looking is not None:
            self._looking.cancel()

    def _on_block(self, sequence: int, subject: str, data: bytes | memoryview) -> None:
        self._waiting.append((sequence, subject, data, self._reader.msg_id))
        if self._looking is None:
            self._hand_over()

    def _hand_over(self) -> None:
        while self._waiting:
            if missing := self._take(*self._waiting[0]):
                self._looking = asyncio.get_running_loop().create_task(self._look(missing))
                self._looking.add_done_callback(_note_failure)
                return
            self._waiting.popleft()

    async def _look(self, missing: range) -> None:
        """Read the ids of blocks in a range; tried until the engine has answered."""
        found: dict[str, int] | None = None
        while found is None:
            try:
                found = await self._ids(missing)
            except (errors.EngineError, TimeoutError) as error:
                log.debug("earlier blocks are asked for again: %s", error)
                await asyncio.sleep(limits.STORE_RETRY_S)
        self._copies.on_earlier(missing, found)
        self._looking = None
        self._hand_over()

    async def _ids(self, missing: range) -> dict[str, int]:
        found: dict[str, int] = {}
        over = asyncio.Event()

        def note(sequence: int, _subject: str, _said: bytes | memoryview) -> None:
            if sequence in missing:
                found.setdefault(reader.msg_id, sequence)
            else:
                over.set()

        reader = OrderedReader(self._connection, subjects.SESSION, self._subject, note, missing.start, header=HEADER)
        try:
            await reader.start()
            ends = [asyncio.ensure_future(reader.caught_up()), asyncio.ensure_future(over.wait())]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
        finally:
            reader.close()
        return found


def _note_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("the blocks of a session are not read any more", exc_info=error)
