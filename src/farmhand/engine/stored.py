"""Publishing that is answered: a message is done when the engine says that it stored it.

Every publish has a deadline. Unanswered ones are sent again with the same `Nats-Msg-Id`, at once after a reconnect and
every STORE_RETRY_S otherwise, so that an outage loses nothing and stores nothing twice (the deadline is shorter than the
engine's dedupe window). A refusal is told apart from silence: full storage is `EngineFull`, everything else `StoreFailed`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from farmhand import errors
from farmhand.engine.connection import Connection
from farmhand.engine.streams import WRONG_LAST, is_passing
from farmhand.engine.wire import Msg
from farmhand.model import limits

_FULL_CODES: Final = frozenset({10023, 10047, 10077, 10122})  # insufficient resources, storage exceeded, maximum bytes

_FENCE: Final = "Nats-Expected-Last-Subject-Sequence-Subject"


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


_read_ack = msgspec.json.Decoder(_PubAck).decode

Done = Callable[[int, errors.EngineError | None], None]  # stream sequence, or the error


class _Waiting:
    __slots__ = ("deadline", "done", "headers", "payload", "sent_at", "subject")

    def __init__(
        self, subject: str, payload: bytes | memoryview, headers: dict[str, str] | None, done: Done, now: float
    ) -> None:
        self.subject = subject
        self.payload = payload
        self.headers = headers
        self.done = done
        self.sent_at = now
        self.deadline = now + limits.STORE_DEADLINE_S


class Publisher:
    """Stored publishes of one connection. `done(sequence, error)` is called exactly once for each, on the loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        # Several sessions may have one credential, and so one inbox: an answer to one is none to the others.
        self._prefix = f"{connection.options.inbox}.st{secrets.token_hex(6)}."
        self._next = 0
        self._waiting: dict[str, _Waiting] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._subscription = connection.subscribe(self._prefix + "*", self._on_ack)
        connection.on_connected.append(self._resend_all)
        self._answered_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0.0  # of the timer

    def publish(
        self, subject: str, payload: bytes | memoryview, done: Done, *, msg_id: str = "", first: bool = False,
        headers: dict[str, str] | None = None, fence: tuple[str, int] | None = None,
    ) -> None:  # fmt: skip
        """Store a message. Without `msg_id` a repeat after an outage may be stored twice.

        `first`: only when the subject has no message yet; that it has one counts as stored, with sequence 0.
        `fence`: a subject and the sequence that its newest message must have, or the error is `Deposed`.
        """
        self._next += 1
        reply = f"{self._prefix}{self._next}"
        if msg_id:
            headers = {**(headers or {}), "Nats-Msg-Id": msg_id}
        if first:
            headers = {"Nats-Expected-Last-Subject-Sequence": "0"}
        if fence is not None:
            headers = {**(headers or {}), _FENCE: fence[0], "Nats-Expected-Last-Subject-Sequence": str(fence[1])}
        if not self._waiting:
            self._answered_at = self._loop.time()
        self._waiting[reply] = _Waiting(subject, payload, headers, done, self._loop.time())
        self._idle.clear()
        if len(self._waiting) >= limits.STORE_IN_FLIGHT_MAX:
            self._room.clear()
        self._connection.publish(subject, payload, reply=reply, headers=headers)
        if self._timer is None:
            self._set_timer()

    async def store(self, subject: str, payload: bytes | memoryview, *, msg_id: str = "", first: bool = False,
                    headers: dict[str, str] | None = None, fence: tuple[str, int] | None = None) -> int:  # fmt: skip
        """Store a message and return its stream sequence. Raises `EngineFull`, `StoreFailed`, `Deposed`."""
        stored: asyncio.Future[int] = self._loop.create_future()

        def done(sequence: int, error: errors.EngineError | None) -> None:
            if stored.done():
                return
            if error is not None:
                stored.set_exception(error)
            else:
                stored.set_result(sequence)

        self.publish(subject, payload, done, msg_id=msg_id, first=first, headers=headers, fence=fence)
        return await stored

    @property
    def stuck(self) -> bool:
        """The engine is there, and has stored nothing of ours for long: so it is when its disk is full. From any thread."""
        connected = self._connection.connected and not self._connection.servers.many  # a cluster may choose a leader
        return connected and bool(self._waiting) and self._loop.time() - self._answered_at > limits.STORE_STUCK_S

    async def wait_room(self) -> None:
        """Return when another publish may be started."""
        await self._room.wait()
        await self._connection.drain()

    async def wait_idle(self) -> None:
        """Return when every publish has been answered."""
        await self._idle.wait()

    def close(self) -> None:
        """Forget what is unanswered; their `done` is called with an error."""
        self._subscription.close()
        if self._timer is not None:
            self._timer.cancel()
        for reply in list(self._waiting):
            self._settle(reply, 0, errors.StoreFailed("the connection was closed before the engine answered"))

    def _on_ack(self, msg: Msg) -> None:
        if msg.subject not in self._waiting:
            return
        self._answered_at = self._loop.time()
        if msg.status == 503:  # no stream listens: the engine is starting, or the stream is being made
            return
        try:
            ack = _read_ack(msg.data)
        except msgspec.DecodeError as error:
            self._settle(msg.subject, 0, errors.StoreFailed(f"the engine's answer cannot be read: {error}"))
            return
        if ack.error is None:
            self._settle(msg.subject, ack.seq, None)
        elif is_passing(ack.error.code, ack.error.err_code):
            return  # it is sent again by the timer
        elif ack.error.err_code == WRONG_LAST and _FENCE in (self._waiting[msg.subject].headers or {}):
            self._settle(msg.subject, 0, errors.Deposed())
        elif ack.error.err_code == WRONG_LAST:
            self._settle(msg.subject, 0, None)  # only asked for with `first`: it is there already
        elif ack.error.err_code in _FULL_CODES or ack.error.code == 503:
            self._settle(msg.subject, 0, errors.EngineFull(f"the engine refused to store: {ack.error.description}"))
        else:
            self._settle(msg.subject, 0, errors.StoreFailed(ack.error.description))

    def _settle(self, reply: str, sequence: int, error: errors.EngineError | None) -> None:
        waiting = self._waiting.pop(reply)
        if len(self._waiting) < limits.STORE_IN_FLIGHT_MAX:
            self._room.set()
        if not self._waiting:
            self._idle.set()
        waiting.done(sequence, error)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        for reply, waiting in list(self._waiting.items()):
            if now >= waiting.deadline and now - self._due_at >= limits.STOPPED_S:
                waiting.deadline = now + limits.STORE_RETRY_S  # we stood still: the answer may be there, and unread
            elif now >= waiting.deadline:
                self._settle(reply, 0, errors.StoreFailed(f"no answer from the engine for {limits.STORE_DEADLINE_S} s"))
            elif now - waiting.sent_at >= limits.STORE_RETRY_S:
                self._resend(reply, waiting, now)
        if self._waiting:
            self._set_timer()

    def _set_timer(self) -> None:
        self._due_at = self._loop.time() + limits.STORE_RETRY_S
        self._timer = self._loop.call_later(limits.STORE_RETRY_S, self._on_timer)

    def _resend(self, reply: str, waiting: _Waiting, now: float) -> None:
        waiting.sent_at = now
        self._connection.publish(waiting.subject, waiting.payload, reply=reply, headers=waiting.headers)

    def _resend_all(self) -> None:
        now = self._loop.time()
        self._answered_at = now
        for reply, waiting in self._waiting.items():
            self._resend(reply, waiting, now)
