"""One authenticated connection to the engine, kept up for as long as it is wanted.

What it promises: `publish` never blocks and never raises for a lost connection; a publish made while the connection is
down is dropped and says so, because everything that must not be lost goes through `stored.Publisher`, which sends it again.
Subscriptions survive a reconnect. `request` has a deadline. Callbacks run on the loop, in arrival order, and must not block.

Why not the public client library: `docs/ARCHITECTURE.md`, section Engine.
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
from farmhand.engine.options import Options
from farmhand.engine.servers import Servers
from farmhand.engine.tcp import Link, TcpLink, open_tcp, upgrade_to_tls
from farmhand.engine.wire import CRLF, Msg, hpub_frame, pub_frame
from farmhand.model import limits
from farmhand.model.address import Address

log = logging.getLogger("farmhand.engine")

SERVER_VERSION_MIN: Final = (2, 12)
_AUTH_WORDS: Final = ("authorization", "authentication", "user authentication")


class Subscription:
    """Interest in a subject. `close()` ends it; closing twice is harmless."""

    __slots__ = ("_connection", "callback", "queue", "sid", "subject")

    def __init__(
        self, connection: Connection, sid: int, subject: str, callback: Callable[[Msg], None], queue: str
    ) -> None:
        self._connection = connection
        self.sid = sid
        self.subject = subject
        self.callback = callback
        self.queue = queue

    def close(self) -> None:
        """End the interest."""
        self._connection._unsubscribe(self.sid)


class Connection:
    """Use `await Connection.open(options)`; every other method needs the running loop of that call."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.server: dict[str, object] = {}  # the INFO of the server we are connected to
        self.on_connected: list[Callable[[], None]] = []  # called after every reconnect, never for the first connect
        self.on_disconnected: list[Callable[[], None]] = []
        self.on_servers: list[Callable[[], None]] = []  # called when a server of the cluster has come or gone
        self.servers = Servers(options.address, options.others)
        self.connected = False
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._link: Link | None = None
        self._out: list[bytes | bytearray | memoryview] = []
        self._out_bytes = 0  # of payloads in `_out`
        self._flush_due = False
        self.writable = asyncio.Event()
        self.writable.set()
        self._subs: dict[int, Subscription] = {}
        self._next_sid = 0
        self._lines: asyncio.Queue[tuple[bytes, bytes]] | None = None  # set only while a handshake is under way
        self._pongs: list[asyncio.Future[None] | None] = []  # who waits for each PONG; None for our own pings
        self._pings_out = 0  # without a sign of life since
        self.heard_at = 0.0  # when the engine last sent anything
        self._replies: dict[str, asyncio.Future[Msg]] = {}
        self._reply_prefix = f"{options.inbox}.{secrets.token_hex(6)}."
        self._next_reply = 0
        self._keeper: asyncio.Task[None] | None = None
        self._pinger: asyncio.TimerHandle | None = None
        self._last_error = ""

    # ---- opening and closing

    @classmethod
    async def open(cls, options: Options, *, retry_forever: bool = False) -> Connection:
        """Connect and authenticate.

        Raises: `EngineUnreachable`, `CredentialRefused`, `EngineTooOld` within `options.connect_timeout` seconds, unless
        `retry_forever`, which keeps trying with back-off as an enrolled node does.
        """
        connection = cls(options)
        connection._subscribe_replies()
        await connection._connect_first(retry_forever)
        connection._start_pinging()
        return connection

    async def _connect_first(self, retry_forever: bool) -> None:
        deadline = self._loop.time() + self.options.connect_timeout
        wait, refusals = limits.RECONNECT_FIRST_S, 0
        turns: list[Address] = []
        while True:
            turns = turns or [self.servers.now, *self.servers.tries()[:-1]]
            self.servers.now = turns.pop(0)
            left = deadline - self._loop.time()
            try:
                await asyncio.wait_for(self._attempt(), self._patience if retry_forever else max(left, 0.05))
                return
            except errors.EngineTooOld as error:
                if not retry_forever:
                    raise
                log.warning("%s; trying on", error)
            except errors.CredentialRefused:
                # While the engine reads its users again, it may refuse a good credential for a moment.
                refusals += 1
                if not retry_forever and refusals > limits.REFUSALS_MAX:
                    raise
            except (OSError, TimeoutError, errors.EngineUnreachable) as error:
                if not retry_forever and self._loop.time() + wait >= deadline:
                    raise errors.EngineUnreachable(f"{self.options.address}: {str(error) or 'no answer'}") from error
                if turns:
                    continue
            log.info("engine %s not reached, trying again in %.2f s", self.options.address, wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, limits.RECONNECT_MAX_S)

    @property
    def _patience(self) -> float:
        """Seconds for one try: with other servers to go to, a silent one must not take all the time."""
        return min(
            self.options.connect_timeout, limits.SERVER_TRY_S if self.servers.many else self.options.connect_timeout
        )

    async def _attempt(self) -> None:
        """One try to connect, with the whole handshake. Leaves the connection up, or raises and leaves nothing behind."""
        lines: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
        self._lines = lines
        self._last_error = ""
        link: Link | None = None
        try:
            link = await self._open_link()
            self._take_info(*await lines.get())
            await self._upgrade(link)
            link.write(self._connect_line() + b"PING\r\n")
            await self._wait_for_pong(lines)
        except BaseException:
            if link is not None:
                link.close()
                await link.wait_closed()
            raise
        finally:
            self._lines = None
        self._link = link
        self._out.clear()
        self._pings_out = 0
        self.writable.set()
        self.connected = True
        link.write(b"".join(self._sub_line(sub) for sub in self._subs.values()))

    async def _wait_for_pong(self, lines: asyncio.Queue[tuple[bytes, bytes]]) -> None:
        while True:
            verb, rest = await lines.get()
            if verb == b"PONG":
                return
            if verb == b"-ERR":
                text = rest.decode(errors="replace").strip("'")
                if any(word in text.lower() for word in _AUTH_WORDS):
                    raise errors.CredentialRefused(f"{self.servers.now} as {self.options.name}: {text}")
                raise errors.EngineUnreachable(f"{self.servers.now}: {text}")
            if verb == b"EOF":
                raise errors.EngineUnreachable(f"{self.servers.now} closed the connection")

    async def _open_link(self) -> Link:
        if self.servers.now.scheme in ("ws", "wss"):
            from farmhand.engine.websocket import open_websocket

            return await open_websocket(self, self.servers.now, self.options.tls)
        return await open_tcp(self, self.servers.now)

    async def _upgrade(self, link: Link) -> None:
        """TLS on top of TCP when the server or the address wants it."""
        wants = self.server.get("tls_required") or self.servers.now.scheme == "tls"
        if not isinstance(link, TcpLink) or not wants:
            return
        if self.options.tls is None:
            raise errors.CredentialRefused(f"{self.servers.now} speaks TLS and no farm CA is known for it")
        await upgrade_to_tls(link, self.options.tls, self.servers.now.host)

    def _take_info(self, verb: bytes, rest: bytes) -> None:
        """The server's first line. Raises `EngineUnreachable` when it is no NATS, `EngineTooOld`."""
        if verb != b"INFO":
            raise errors.EngineUnreachable(f"{self.servers.now} does not speak NATS")
        self.server = msgspec.json.decode(rest)
        self._learn()
        version = str(self.server.get("version", "0"))
        parts = tuple(int(p) for p in version.split("-", maxsplit=1)[0].split(".")[:2] if p.isdigit())
        if parts < SERVER_VERSION_MIN:
            wanted = ".".join(map(str, SERVER_VERSION_MIN))
            raise errors.EngineTooOld(f"{self.servers.now} runs nats-server {version}; {wanted} or later is needed")

    def _connect_line(self) -> bytes:
        options = self.options
        fields: dict[str, object] = {
            "verbose": False, "pedantic": False, "lang": "python", "version": "1", "protocol": 1, "headers": True,
            "no_responders": True, "echo": True, "name": options.name, "tls_required": options.tls is not None,
        }  # fmt: skip
        if options.signer is not None:
            fields["nkey"] = options.signer.public
            fields["sig"] = options.signer.sign(str(self.server.get("nonce", "")).encode())
        if options.user:
            fields["user"], fields["pass"] = options.user, options.password
        return b"CONNECT " + msgspec.json.encode(fields) + CRLF

    @property
    def epoch(self) -> str:
        """Which life of the farm this is: another one after its streams were put back from a backup."""
        return str(
            self.server.get("cluster") or self.server.get("server_name", "")
        )  # a cluster's is that of all its servers

    async def close(self) -> None:
        """Send what is waiting, then close. Requests under way fail with `EngineLost`."""
        if self._closed:
            return
        if self.connected:
            with contextlib.suppress(errors.EngineLost, TimeoutError):
                await self.flush(timeout=1.0)
        self._closed = True
        self.connected = False
        if self._pinger is not None:
            self._pinger.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
        link, self._link = self._link, None
        self._fail_waiters()
        if link is not None:
            link.close()
            await link.wait_closed()

    def abort(self) -> None:
        """Close at once: nothing that waits to be sent leaves any more. Requests under way fail with `EngineLost`."""
        self._closed, self.connected = True, False
        self._out.clear()
        for handle in (self._pinger, self._keeper):
            if handle is not None:
                handle.cancel()
        link, self._link = self._link, None
        self._fail_waiters()
        if link is not None:
            link.close()

    # ---- events from the link

    def on_heard(self) -> None:
        """For the link: bytes have come."""
        # Any byte shows that the engine lives. Its PONG alone would not do: behind a slow link it waits for all that we send.
        self._pings_out = 0
        self.heard_at = self._loop.time()

    def on_msg(self, sid: int, msg: Msg) -> None:
        """For the link: hand a message to its subscription."""
        sub = self._subs.get(sid)
        if sub is None:
            return
        try:
            sub.callback(msg)
        except Exception:
            log.exception("the handler of %s failed", sub.subject)

    def on_line(self, verb: bytes, rest: bytes) -> None:
        """For the link: a control line."""
        if self._lines is not None and verb != b"PING":
            self._lines.put_nowait((verb, rest))
            return
        if verb == b"PING":
            if self._link is not None:
                self._link.write(b"PONG\r\n")
        elif verb == b"PONG":
            waiter = self._pongs.pop(0) if self._pongs else None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        elif verb == b"INFO":
            self.server.update(msgspec.json.decode(rest))
            self._learn()
        elif verb == b"-ERR":
            self._last_error = rest.decode(errors="replace").strip("'")
            log.warning("engine says: %s", self._last_error)

    def _learn(self) -> None:
        """What a server says of the others."""
        known, options = self.servers.known, self.options
        changed = self.servers.learn(self.server, follow=options.follow)
        if options.keep is not None and set(known) != set(self.servers.known):
            options.keep(self.servers.known)
        if changed and self.connected:
            log.info("the farm's servers are now %s", ", ".join(sorted(self.servers.living)))
            for callback in list(self.on_servers):
                callback()

    def on_lost(self, link: Link, exc: Exception | None) -> None:
        """For the link: it is closed. Callbacks are told once, and the way back begins."""
        if self._lines is not None:
            self._lines.put_nowait((b"EOF", b""))
        if link is not self._link or not self.connected:
            return
        self.connected = False
        self._link = None
        self.writable.set()
        self._fail_waiters()
        if self._closed:
            return
        log.info("connection to the engine lost (%s)", exc or self._last_error or "closed by the peer")
        for callback in self.on_disconnected:
            callback()
        self._keeper = self._loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        wait = limits.RECONNECT_FIRST_S
        turns: list[Address] = []
        while not self._closed:
            turns = turns or self.servers.tries()
            self.servers.now = turns.pop(0)
            try:
                await asyncio.wait_for(self._attempt(), self._patience)
            except (OSError, TimeoutError, errors.FarmhandError) as error:
                log.debug("reconnect to %s failed: %s", self.servers.now, error)
                if turns:
                    continue
                jitter = 0.5 + secrets.randbelow(1000) / 1000
                await asyncio.sleep(wait * jitter)
                wait = min(wait * 2, limits.RECONNECT_MAX_S)
                continue
            log.info("connected to the engine again, at %s", self.servers.now)
            for callback in list(self.on_connected):
                callback()
            return

    def _fail_waiters(self) -> None:
        lost = errors.EngineLost("the connection was lost while waiting for an answer")
        waiters: list[asyncio.Future[None] | asyncio.Future[Msg] | None] = [*self._pongs, *self._replies.values()]
        self._pongs.clear()
        self._replies.clear()
        for waiter in waiters:
            if waiter is not None and not waiter.done():
                waiter.set_exception(lost)

    def _start_pinging(self) -> None:
        self._pinger = self._loop.call_later(self.options.ping_interval, self._ping)

    def _ping(self) -> None:
        if self._closed:
            return
        if self.connected and self._link is not None:
            if self._pings_out >= limits.PINGS_OUT_MAX:
                log.warning("the engine answers no ping; closing the connection")
                self._link.close()
            else:
                self._pings_out += 1
                self._link.write(b"PING\r\n")
                self._pongs.append(None)
        self._start_pinging()

    # ---- publishing

    def publish(self, subject: str, payload: bytes | bytearray | memoryview = b"", *, reply: str = "",
                headers: dict[str, str] | None = None) -> bool:  # fmt: skip
        """Queue one message for sending. False when the connection is down and the message was dropped."""
        if not self.connected:
            return False
        if headers:
            self._out.append(hpub_frame(subject, len(payload), headers, reply))
        else:
            self._out.append(pub_frame(subject, len(payload), reply))
        self._out.append(payload)
        self._out.append(CRLF)
        self._out_bytes += len(payload)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_out)
        return True

    def _flush_out(self) -> None:
        self._flush_due = False
        out, self._out = self._out, []
        size, self._out_bytes = self._out_bytes, 0
        if not out or self._link is None:
            return
        if size >= limits.JOIN_BYTES_MAX:
            self._link.writelines(out)
        else:
            self._link.write(b"".join(out))

    async def drain(self) -> None:
        """Wait until the socket takes more. Bulk publishers call it between chunks."""
        if self._flush_due:
            self._flush_out()
        await self.writable.wait()

    async def flush(self, timeout: float = limits.REQUEST_S) -> None:
        """Wait until the server has read everything published so far. Raises `EngineLost`, `TimeoutError`."""
        if not self.connected or self._link is None:
            raise errors.EngineLost("not connected")
        self._flush_out()
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._pongs.append(waiter)
        self._link.write(b"PING\r\n")
        await asyncio.wait_for(waiter, timeout)

    # ---- subscribing and asking

    def subscribe(self, subject: str, callback: Callable[[Msg], None], *, queue: str = "") -> Subscription:
        """Call `callback(msg)` for every message on `subject` until the subscription is closed."""
        self._next_sid += 1
        sub = Subscription(self, self._next_sid, subject, callback, queue)
        self._subs[sub.sid] = sub
        if self.connected and self._link is not None:
            self._flush_out()  # a publish made before must not overtake its own subscription's line, nor the reverse
            self._link.write(self._sub_line(sub))
        return sub

    @staticmethod
    def _sub_line(sub: Subscription) -> bytes:
        return f"SUB {sub.subject} {sub.queue + ' ' if sub.queue else ''}{sub.sid}\r\n".encode()

    def _unsubscribe(self, sid: int) -> None:
        if self._subs.pop(sid, None) is not None and self.connected and self._link is not None:
            self._link.write(f"UNSUB {sid}\r\n".encode())

    def _subscribe_replies(self) -> None:
        self.subscribe(self._reply_prefix + "*", self._on_reply)

    def _on_reply(self, msg: Msg) -> None:
        waiter = self._replies.pop(msg.subject, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(msg)

    async def request(self, subject: str, payload: bytes = b"", *, timeout: float = limits.REQUEST_S,
                      headers: dict[str, str] | None = None) -> Msg:  # fmt: skip
        """Ask and wait for one answer.

        Raises: `EngineLost` when the connection drops, `NoResponder` when nobody listens, `TimeoutError` after `timeout` s.
        """
        self._next_reply += 1
        reply = f"{self._reply_prefix}{self._next_reply}"
        waiter: asyncio.Future[Msg] = self._loop.create_future()
        self._replies[reply] = waiter
        try:
            if not self.publish(subject, payload, reply=reply, headers=headers):
                raise errors.EngineLost("not connected")
            msg = await asyncio.wait_for(waiter, timeout)
        finally:
            self._replies.pop(reply, None)
        if msg.status == 503:
            raise errors.NoResponder(f"nobody answers on {subject}")
        return msg

    async def wait_connected(self) -> None:
        """Return once the connection is up (at once when it is)."""
        if self.connected:
            return
        up: asyncio.Future[None] = self._loop.create_future()

        def done() -> None:
            if not up.done():
                up.set_result(None)

        self.on_connected.append(done)
        try:
            await up
        finally:
            self.on_connected.remove(done)
