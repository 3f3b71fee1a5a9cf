"""Reading a stream in order and missing nothing, over lost connections and restarts of the engine.

An ephemeral push consumer delivers; gaps in its own sequence, silence and reconnects make a new one from the last stream
sequence + 1. The reader's callback sees each message once, in stream order.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, Final

from farmhand import errors
from farmhand.engine import streams
from farmhand.engine.connection import Connection, Subscription
from farmhand.engine.wire import Msg

log = logging.getLogger("farmhand.engine")

_NS: Final = 1_000_000_000
HEARTBEAT_S: Final = 5.0  # the engine says that it lives; three missed ones make a new consumer
# The same in a cluster: a reader's consumer lives on one server and dies with it, while our connection may be to another.
CLUSTER_HEARTBEAT_S: Final = 1.0


class OrderedReader:
    """Call `callback(sequence, subject, data)` for every message of `subject` in `stream`, from `first` on.

    header: read this header of the messages instead of their bodies, which then do not travel.
    """

    def __init__(self, connection: Connection, stream: str, subject: str,
                 callback: Callable[[int, str, bytes | memoryview], None], first: int = 1, *,
                 header: str = "", since: str = "", anew: bool = False) -> None:  # fmt: skip
        self._header = header
        self._caught_up = asyncio.Event()
        self.last = first - 1  # stream sequence of the last message handed over
        self.pending = 0  # messages that are there and have not been handed over, as the engine last said
        self._anew = (
            anew  # read all again when the farm was put back from a backup: its sequences are used a second time
        )
        self._epoch = ""
        self._since = since  # while nothing was read: begin with what was stored then, an RFC 3339 time
        self._reply: list[str] = []  # that of the last message: see `_on_msg`
        self._msg: Msg | None = None  # that is being handed over
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._name = ""
        self._expected = 0  # the consumer's own next sequence
        self._heard_at = self._watched_at = 0.0
        self._subscription: Subscription | None = None
        self._making: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False
        self._paused = False
        self._go_on = ""  # the flow control subject that we have not answered yet

    @property
    def stored_at(self) -> float:
        """When the engine stored the message that is being handed over, in seconds since 1970 by its clock."""
        return int(self._reply[-2]) / _NS

    @property
    def msg_id(self) -> str:
        """Under which id the message was stored that is being handed over; empty when it had none."""
        return self._msg.header("Nats-Msg-Id") if self._msg is not None else ""

    def pause(self) -> None:
        """Ask the engine to send no more; what is on its way (up to 32 MB) still comes."""
        self._paused = True

    def resume(self) -> None:
        """Let it send again."""
        self._paused = False
        if self._go_on:
            self._connection.publish(self._go_on)
            self._go_on = ""

    async def caught_up(self) -> None:
        """Return when everything has been handed over that was stored when the consumer was made, and all since then."""
        await self._caught_up.wait()

    async def start(self) -> None:
        """Make the first consumer. Raises what the engine says."""
        await self._make()
        self._connection.on_connected.append(self._remake)
        self._start_watch()

    @property
    def _heartbeat(self) -> float:
        return CLUSTER_HEARTBEAT_S if self._connection.servers.many else HEARTBEAT_S

    def _start_watch(self) -> None:
        self._watched_at = self._loop.time()
        self._watch = self._loop.call_later(self._heartbeat, self._on_watch)

    def close(self) -> None:
        """Stop delivering. The engine removes the consumer by itself."""
        self._closed = True
        if self._remake in self._connection.on_connected:
            self._connection.on_connected.remove(self._remake)
        for handle in (self._making, self._watch):
            if handle is not None:
                handle.cancel()
        if self._subscription is not None:
            self._subscription.close()
            self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}")

    async def _make(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
        self._name = f"r{secrets.token_hex(8)}"
        inbox = f"{self._connection.options.inbox}.o.{self._name}"
        self._expected = 1
        if self._anew and self._epoch not in ("", self._connection.epoch):
            self.last = 0
        self._epoch = self._connection.epoch
        self._subscription = self._connection.subscribe(inbox, self._on_msg)
        config: dict[str, Any] = {
            "name": self._name, "deliver_subject": inbox, "filter_subject": self._subject, "ack_policy": "none",
            "max_deliver": 1, "mem_storage": True, "num_replicas": 1, "inactive_threshold": 30 * _NS,
            "flow_control": True, "idle_heartbeat": int(self._heartbeat * _NS), "replay_policy": "instant",
            "headers_only": bool(self._header),
        }  # fmt: skip
        if self._since and not self.last:
            config |= {"deliver_policy": "by_start_time", "opt_start_time": self._since}
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self.last + 1}
        verb = f"CONSUMER.CREATE.{self._stream}.{self._name}.{self._subject}"
        made = await streams.call(self._connection, verb, {"stream_name": self._stream, "config": config})
        self.pending = int(made.get("num_pending", 0))
        if not self.pending and self._expected == 1:
            self._caught_up.set()
        self._heard_at = self._loop.time()

    def _on_msg(self, msg: Msg) -> None:
        self._heard_at = self._loop.time()
        if msg.status == 100:
            # Flow control: the engine waits for an answer on this subject before it sends more.
            if go_on := msg.reply or msg.header("Nats-Consumer-Stalled"):
                if self._paused:
                    self._go_on = go_on
                else:
                    self._connection.publish(go_on)
            if (sent := msg.header("Nats-Last-Consumer")) and int(sent) >= self._expected:
                self._remake()
            return
        # the reply subject carries: $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>
        parts = msg.reply.split(".")
        stream_sequence, consumer_sequence = int(parts[-4]), int(parts[-3])
        if consumer_sequence != self._expected:
            self._remake()
            return
        self._expected += 1
        if stream_sequence > self.last:
            self.last = stream_sequence
            self.pending = int(parts[-1])
            self._reply, self._msg = parts, msg
            self._callback(
                stream_sequence, msg.subject, msg.header(self._header).encode() if self._header else msg.data
            )
            self._msg = None
        if parts[-1] == "0":
            self._caught_up.set()

    def _remake(self) -> None:
        if self._closed or (self._making is not None and not self._making.done()):
            return
        self._making = self._loop.create_task(self._remake_until_done())

    async def _remake_until_done(self) -> None:
        while not self._closed:
            try:
                await self._connection.wait_connected()
                await self._make()
                return
            except (errors.EngineError, TimeoutError) as error:
                log.debug("reader of %s not made yet: %s", self._subject, error)
                await asyncio.sleep(0.1)

    def _on_watch(self) -> None:
        now = self._loop.time()
        held_up = (
            now - self._watched_at > 2 * self._heartbeat
        )  # by the user's code: what came meanwhile is not read yet
        if self._connection.connected and not held_up and now - self._heard_at > 3 * self._heartbeat:
            self._remake()
        self._start_watch()
