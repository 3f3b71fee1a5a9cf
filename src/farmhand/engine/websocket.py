"""The engine over a WebSocket, for farms behind a proxy. aiohttp is imported only here, only when it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from farmhand import errors
from farmhand.engine.wire import ProtocolViolation, Reader

if TYPE_CHECKING:
    import ssl

    import aiohttp

    from farmhand.engine.tcp import Owner
    from farmhand.model.address import Address


class WebSocketLink:
    """Carries NATS bytes in binary frames; frame borders mean nothing to the protocol."""

    def __init__(self, owner: Owner, http: aiohttp.ClientSession, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._owner = owner
        self._http = http
        self._ws = ws
        self._reader = Reader(owner.on_msg, owner.on_line)
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._read()), loop.create_task(self._send())]

    def write(self, data: bytes) -> None:
        """Send, as one frame."""
        self._queue.put_nowait(data)

    def writelines(self, data: list[bytes | bytearray | memoryview]) -> None:
        """Send several pieces as one frame."""
        self.write(b"".join(data))

    def close(self) -> None:
        """Send what waits, then close."""
        self._queue.put_nowait(None)

    async def wait_closed(self) -> None:
        """Return when both directions have ended and the HTTP session is closed."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionError, OSError):
            while (data := await self._queue.get()) is not None:
                await self._ws.send_bytes(data)
        await self._ws.close()

    async def _read(self) -> None:
        import aiohttp

        problem: Exception | None = None
        try:
            async for message in self._ws:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self._owner.on_heard()
                    self._reader.feed(message.data)
        except (ProtocolViolation, aiohttp.ClientError, OSError) as error:
            problem = error
        finally:
            self._queue.put_nowait(None)
            await self._http.close()
            self._owner.on_lost(self, problem)


async def open_websocket(owner: Owner, address: Address, tls: ssl.SSLContext | None) -> WebSocketLink:
    """Connect to a `ws://` or `wss://` address. Raises `EngineUnreachable`."""
    import aiohttp

    http = aiohttp.ClientSession()
    try:
        ws = await http.ws_connect(str(address), ssl=tls or True, max_msg_size=0, compress=0)
    except (aiohttp.ClientError, OSError) as error:
        await http.close()
        raise errors.EngineUnreachable(f"{address}: {error}") from error
    return WebSocketLink(owner, http, ws)
