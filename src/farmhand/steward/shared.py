"""The register of users of a cluster: one for all servers, each of which has it in its own files.

The newest message of a subject is the register; who changes it says which one it replaces, so no change is lost. Each server's
steward follows it, writes its files, and has its own server read them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from farmhand import errors
from farmhand.engine import asking, streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.ordered import OrderedReader
from farmhand.model import limits
from farmhand.security.accounts import Register, UserStore
from farmhand.steward.enrolment import reload_engine

log = logging.getLogger("farmhand.steward")

_RETRY_S: Final = 0.5


class SharedRegister:
    """See the head of this file."""

    def __init__(self, connection: Connection, system: Connection, users: UserStore) -> None:
        self._connection = connection
        self._system = system
        self._users = users
        self._newest: tuple[int, Register] | None = None
        self._applied = 0
        self._changed = asyncio.Condition()
        self.on_change: list[Callable[[], None]] = []
        self._loop = asyncio.get_running_loop()
        self._reader = OrderedReader(connection, subjects.KEEP, subjects.USERS, self._on_register)
        self._arrived = asyncio.Event()
        self._applying: asyncio.Task[None] | None = None
        self._answers: set[asyncio.Task[None]] = set()

    @property
    def register(self) -> Register:
        """As it is known here."""
        return self._newest[1] if self._newest else self._users.load()

    async def start(self) -> None:
        """Begin to follow it. Raises what the engine says."""
        await self._reader.start()
        self._applying = self._loop.create_task(self._apply_forever())
        self._connection.subscribe(subjects.USERS_READ, lambda msg: self._answer(msg.reply, int(bytes(msg.data))))

    def close(self) -> None:
        """Stop following."""
        self._reader.close()
        for task in (self._applying, *self._answers):
            if task is not None:
                task.cancel()

    def _on_register(self, sequence: int, _subject: str, data: bytes | memoryview) -> None:
        self._newest = sequence, msgspec.json.decode(data, type=Register)
        self._arrived.set()

    async def _apply_forever(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            assert self._newest is not None
            sequence, register = self._newest
            try:
                if await asyncio.to_thread(self._users.put, register):
                    await reload_engine(self._system)
            except (errors.FarmhandError, OSError, TimeoutError) as error:
                log.warning("the users were not taken over, trying again: %s", error)
                self._loop.call_later(_RETRY_S, self._arrived.set)
                continue
            async with self._changed:
                self._applied = sequence
                self._changed.notify_all()
            for callback in list(self.on_change):
                callback()

    def _answer(self, reply: str, sequence: int) -> None:
        async def when_applied() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: self._applied >= sequence)
            self._connection.publish(reply, b"")

        task = self._loop.create_task(when_applied())
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def change(self, change: Callable[[Register], Register]) -> None:
        """Store `change(register)`, and return when every server that is up lets the new users in.

        Raises what `change` raises, `EngineError`, `TimeoutError`.
        """
        while True:
            last = await streams.last_message(self._connection, subjects.KEEP, subjects.USERS)
            before = msgspec.json.decode(last.data, type=Register) if last else self._users.load()
            after, sequence = change(before), last.sequence if last else 0
            if after != before or last is None:
                written = await streams.replace_last(
                    self._connection, subjects.USERS, msgspec.json.encode(after), after=sequence
                )
                if written is None:
                    continue
                sequence = written
            wanted = max(1, len(self._connection.servers.living))
            # One that is slow must not make a joiner wait in vain, whose own patience is CONNECT_S.
            await asking.gather(self._connection, subjects.USERS_READ, wanted, str(sequence).encode(),
                                patience=limits.CONNECT_S / 2)  # fmt: skip
            return
