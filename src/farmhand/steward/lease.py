"""The lease: of a cluster's stewards one acts at a time.

It is the newest message of a subject that all servers keep, and who writes it says which one it replaces, so the engine lets
one of several through. The holder renews it. What keeps a steward that has lost it from acting:

Rule 1: the holder believes in it for LEASE_S from when it began to write it. Others believe in it for longer, from when they
read it, so that one ends before another one begins.
Rule 2: it is bound to one connection, by which its holder also acts. When that ends the lease does, at once and for the holder
too. So who hears from the engine that the connection has closed may take over without waiting.
Rule 3: who takes over for silence has that connection closed first: what a frozen steward had begun to send goes nowhere.
Rule 4: reports in the name of lost nodes carry the term's mark, and the engine refuses those of an earlier term.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from farmhand import errors
from farmhand.engine import streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.options import Options
from farmhand.engine.ordered import OrderedReader
from farmhand.engine.stored import Publisher
from farmhand.model import limits
from farmhand.steward import census

log = logging.getLogger("farmhand.steward")

_SETTLE_S: Final = 0.1  # what the last holder had sent may be on its way between two servers; this much is allowed for
_RETRY_S: Final = 0.2  # after a try to take it that the engine did not answer


class _Note(msgspec.Struct):
    """What the lease says. `holder` empty: it was given up."""

    holder: str = ""  # the server
    term: str = ""  # of the connection by which it is held


class Term:
    """The time for which this steward acts. `connection` is for everything that it does."""

    def __init__(self, connection: Connection, name: str, sequence: int, until: float) -> None:
        self.connection = connection
        self.fence: tuple[str, int] = (subjects.TERM, 0)
        self._name = name
        self._sequence = sequence
        self._until = until
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._on_end: list[Callable[[], None]] = []
        self._alarm = self._loop.call_at(until, self.end)
        self._renewing = self._loop.create_task(self._renew_forever())
        connection.on_disconnected.append(self.end)

    @property
    def valid(self) -> bool:
        """Whether it still counts. Also right in the moment after this process was frozen."""
        if not self._over and self._loop.time() >= self._until:
            self.end()
        return not self._over

    def check(self) -> None:
        """To be called right before whatever cannot be undone. Raises `Deposed`."""
        if not self.valid:
            raise errors.Deposed

    def call_at_end(self, action: Callable[[], None]) -> None:
        """Have `action` called when it is over."""
        self._on_end.append(action)

    def end(self) -> None:
        """It is over: nothing leaves by its connection any more."""
        if self._over:
            return
        self._over = True
        log.info("this steward acts no longer")
        self._alarm.cancel()
        self._renewing.cancel()
        self.connection.abort()
        for action in self._on_end:
            action()

    async def set_mark(self) -> None:
        """Shut out reports of earlier terms. Raises what storing raises."""
        publisher = Publisher(self.connection)
        try:
            self.fence = (subjects.TERM, await publisher.store(subjects.TERM, self._name.encode()))
        finally:
            publisher.close()

    async def resign(self) -> None:
        """Let others have it at once."""
        if self.valid:
            self._renewing.cancel()
            with contextlib.suppress(errors.EngineError, TimeoutError):
                await _write(self.connection, _Note(), self._sequence, timeout=limits.LEASE_RENEW_S)
        self.end()

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(limits.LEASE_RENEW_S)
            began = self._loop.time()
            try:
                sequence = await _write(self.connection, self._note, self._sequence, timeout=self._until - began)
                if sequence is None:  # another one's, or ours of a try whose answer was lost
                    last = await streams.last_message(self.connection, subjects.KEEP, subjects.LEASE)
                    if last is None or msgspec.json.decode(last.data, type=_Note) != self._note:
                        log.warning("another steward has the lease")
                        self.end()
                        return
                    self._sequence = last.sequence
                    continue  # when that was written is not known; so once more, now
            except (errors.EngineError, TimeoutError) as error:
                log.debug("the lease was not renewed: %s", error)
                continue
            self._sequence = sequence
            self._until = began + limits.LEASE_S
            self._alarm.cancel()
            self._alarm = self._loop.call_at(self._until, self.end)

    @property
    def _note(self) -> _Note:
        holder, _, term = self._name.rpartition(":")
        return _Note(holder, term)


async def _write(connection: Connection, note: _Note, after: int, *, timeout: float) -> int | None:
    written = streams.replace_last(connection, subjects.LEASE, msgspec.json.encode(note), after=after)
    return await asyncio.wait_for(written, max(timeout, 0.01))


class Lease:
    """Follows the lease, and takes it when it is free."""

    def __init__(self, server: str, watch: Connection, system: Connection, acting: Callable[[], Options]) -> None:
        """`acting`: how to connect for a term."""
        self._server = server
        self._watch = watch
        self._system = system
        self._acting = acting
        self._loop = asyncio.get_running_loop()
        self._note = _Note()
        self._sequence = 0
        self._free_at = 0.0
        self._vacated = asyncio.Event()
        self._reader = OrderedReader(watch, subjects.KEEP, subjects.LEASE, self._on_note)
        system.subscribe("$SYS.ACCOUNT.*.DISCONNECT", lambda msg: self._on_disconnect(bytes(msg.data)))

    @property
    def holder(self) -> str:
        """The server whose steward acts, as far as is known; empty for none."""
        return self._note.holder if self._loop.time() < self._free_at else ""

    async def start(self) -> None:
        """Begin to follow it. Raises what the engine says."""
        # Before the first note comes, which may be old or new and counts as new: each sets this anew.
        self._free_at = self._loop.time() + limits.LEASE_RENEW_S
        await self._reader.start()

    def close(self) -> None:
        """Stop following."""
        self._reader.close()

    def _on_note(self, sequence: int, _subject: str, data: bytes | memoryview) -> None:
        self._note, self._sequence = msgspec.json.decode(data, type=_Note), sequence
        if self._note.holder:
            self._free_at = self._loop.time() + limits.LEASE_S + limits.LEASE_RENEW_S
        else:
            self._free_at = 0.0
            self._vacated.set()

    def _on_disconnect(self, data: bytes) -> None:
        event = msgspec.json.decode(data)
        if self._note.term and (event.get("client") or {}).get("name") == f"steward:{self._note.term}":
            self._free_at = 0.0
            self._vacated.set()

    async def take(self) -> Term:
        """Wait until nobody has it, and take it."""
        while True:
            self._vacated.clear()
            wait = self._free_at - self._loop.time()
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._vacated.wait(), wait)
                continue
            try:
                if (term := await self._try()) is not None:
                    return term
            except (errors.FarmhandError, TimeoutError) as error:
                log.debug("the lease was not taken: %s", error)
            await asyncio.sleep(_RETRY_S)

    async def _try(self) -> Term | None:
        """Take it if nobody else is faster."""
        # What is replaced is what was found free: who takes it while we connect must not lose it to us.
        before, after, term = self._note, self._sequence, secrets.token_hex(8)
        options = self._acting()
        options.name = f"steward:{term}"
        connection = await Connection.open(options)
        try:
            began = self._loop.time()
            sequence = await _write(connection, _Note(self._server, term), after, timeout=limits.LEASE_S)
            if sequence is None:
                connection.abort()
                return None
            held = Term(connection, f"{self._server}:{term}", sequence, began + limits.LEASE_S)
        except BaseException:
            connection.abort()
            raise
        if before.term:  # whoever had it may be frozen
            with contextlib.suppress(errors.EngineError, TimeoutError):
                await census.evict(self._system, f"steward:{before.term}")
        await asyncio.sleep(_SETTLE_S)
        if not held.valid:
            return None
        log.info("this steward acts for the farm now")
        return held
