"""Where an engine is: a scheme, a host and a port, with what a join line adds to them."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from farmhand import errors

SCHEMES: Final = ("nats", "tls", "ws", "wss")
PORT_DEFAULT: Final = 4222  # NATS's own; WebSocket schemes default to the web's ports
_WEB_PORTS: Final = {"ws": 80, "wss": 443}
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1", "[::1]")


class Address(msgspec.Struct, frozen=True):
    """`scheme://host:port`. `token` and `pin` are there only when it came from a join line."""

    scheme: str
    host: str
    port: int
    token: str = ""
    pin: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def key(self) -> str:
        """The name of the folder that keeps what this machine knows of that farm."""
        return f"{self.host}_{self.port}".replace(":", "-")

    @property
    def encrypted(self) -> bool:
        return self.scheme in ("tls", "wss")

    @property
    def loopback(self) -> bool:
        return self.host in LOOPBACK or self.host.startswith("127.")

    def join_line(self) -> str:
        """The address with its token and pin, as `farmhand join` takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        token = f"{self.token}@" if self.token else ""
        pin = f"?pin={self.pin}" if self.pin else ""
        return f"{self.scheme}://{token}{host}:{self.port}{pin}"


def parse_address(text: str) -> Address:
    """Read `host`, `host:port`, a URL or a join line. Raises `BadAddress` that names what is wrong."""
    text = text.strip()
    if not text:
        raise errors.BadAddress("the address is empty; write for example tls://server:4222")
    parts = urlsplit(text if "://" in text else f"nats://{text}")
    if parts.scheme not in SCHEMES:
        raise errors.BadAddress(f"{text!r}: unknown scheme {parts.scheme!r}; one of {', '.join(SCHEMES)}")
    try:
        port = parts.port
    except ValueError as error:
        raise errors.BadAddress(f"{text!r}: {error}") from None
    if not parts.hostname:
        raise errors.BadAddress(f"{text!r} names no host")
    pin = parse_qs(parts.query).get("pin", [""])[0]
    if pin and not (pin.startswith("sha256:") and len(pin) == 71):
        raise errors.BadAddress(f"{text!r}: a pin is 'sha256:' and 64 hexadecimal digits")
    return Address(
        parts.scheme, parts.hostname, port or _WEB_PORTS.get(parts.scheme, PORT_DEFAULT), unquote(parts.username or ""), pin
    )
