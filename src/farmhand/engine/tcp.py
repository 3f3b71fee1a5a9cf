"""What carries the engine's bytes: the interface, and TCP with or without TLS. `websocket.py` has the other way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import Protocol

from farmhand.engine.wire import Msg, ProtocolViolation, Reader
from farmhand.model import limits
from farmhand.model.address import Address

log = logging.getLogger("farmhand.engine")


class Owner(Protocol):
    """Who uses a link: the connection."""

    writable: asyncio.Event  # set while the link takes more

    def on_heard(self) -> None:
        """Bytes have come."""

    def on_msg(self, sid: int, msg: Msg) -> None:
        """A message has come."""

    def on_line(self, verb: bytes, rest: bytes) -> None:
        """A control line has come."""

    def on_lost(self, link: Link, exc: Exception | None) -> None:
        """The link is closed, for whatever reason. Called once."""


class Link(Protocol):
    """What carries the bytes: TCP, TLS or a WebSocket."""

    def write(self, data: bytes) -> None:
        """Send; never blocks."""

    def writelines(self, data: list[bytes | bytearray | memoryview]) -> None:
        """The same without joining the pieces first, which would copy large ones."""

    def close(self) -> None:
        """Close at once."""

    async def wait_closed(self) -> None:
        """Return when nothing of the link is left."""


class TcpLink(asyncio.BufferedProtocol):
    """The socket's side of a connection: feeds the reader, reports the loss once."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.reader = Reader(owner.on_msg, owner.on_line)
        self.transport: asyncio.Transport | None = None

    def prepare(self) -> None:
        """Small messages leave at once; large ones tell their sender when to wait."""
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport.set_write_buffer_limits(high=limits.WRITE_BUFFER_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        self.transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the socket writes: memory of the reader."""
        return self.reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self.owner.on_heard()
        try:
            self.reader.received(nbytes)
        except ProtocolViolation as error:
            log.warning("engine: %s; closing the connection", error)
            self.close()

    def eof_received(self) -> bool:
        """The peer has closed: close too."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self.owner.on_lost(self, exc)

    def pause_writing(self) -> None:
        """The send buffer is full."""
        self.owner.writable.clear()

    def resume_writing(self) -> None:
        """There is room again."""
        self.owner.writable.set()

    def write(self, data: bytes) -> None:
        """Send."""
        if self.transport is not None:
            self.transport.write(data)

    def writelines(self, data: list[bytes | bytearray | memoryview]) -> None:
        """The same without joining the pieces first, which would copy large ones."""
        if self.transport is not None:
            self.transport.writelines(data)

    def close(self) -> None:
        """Close at once, without a goodbye."""
        if self.transport is not None:
            self.transport.abort()

    async def wait_closed(self) -> None:
        """An aborted socket needs no goodbye."""


async def open_tcp(owner: Owner, address: Address) -> TcpLink:
    """Connect a socket. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_connection(lambda: TcpLink(owner), address.host, address.port)
    link.prepare()
    return link


async def upgrade_to_tls(link: TcpLink, context: ssl.SSLContext, host: str) -> None:
    """Speak TLS on a link from now on. Raises `ssl.SSLError`, `OSError`."""
    assert link.transport is not None
    transport = await asyncio.get_running_loop().start_tls(link.transport, link, context, server_hostname=host)
    assert transport is not None
    link.transport = transport
    link.prepare()
