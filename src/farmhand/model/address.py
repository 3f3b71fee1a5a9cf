"""Where an engine is: a scheme, a host and a port, with what a join line adds to them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from farmhand import errors

SCHEMES: Final = ("nats", "tls", "ws", "wss")
PORT_DEFAULT: Final = 4222  # NATS's own; WebSocket schemes default to the web's ports
_WEB_PORTS: Final = {"ws": 80, "wss": 443}
_LOOPBACK_NET: Final = re.compile(r"127(\.\d{1,3}){3}")
_PIN: Final = re.compile(r"sha256:[0-9a-f]{64}")
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
        """Whether this way in is TLS."""
        return self.scheme in ("tls", "wss")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK or bool(_LOOPBACK_NET.fullmatch(self.host))

    def join_line(self) -> str:
        """The address with its token and pin, as `farmhand join` takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        token = f"{self.token}@" if self.token else ""
        pin = f"?pin={self.pin}" if self.pin else ""
        return f"{self.scheme}://{token}{host}:{self.port}{pin}"


def parse_address(text: str) -> Address:
    """Read `host`, `host:port`, a URL or a join line. Raises `BadAddress` that names what is wrong and shows no token."""
    text = text.strip()
    if not text:
        raise errors.BadAddress("the address is empty; write for example tls://server:4222")
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
    except ValueError as error:
        raise errors.BadAddress(f"{text!r}: {error}") from None
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.scheme not in SCHEMES:
        raise errors.BadAddress(f"{shown!r}: unknown scheme {parts.scheme!r}; one of {', '.join(SCHEMES)}")
    try:
        port = parts.port
    except ValueError:
        raise errors.BadAddress(f"{shown!r}: the port is not a number from 1 to 65535") from None
    if not parts.hostname:
        raise errors.BadAddress(f"{shown!r} names no host")
    if parts.path.strip("/") or parts.password is not None:
        raise errors.BadAddress(f"{shown!r}: an address has no path and no password; it is scheme://host:port")
    pin = parse_qs(parts.query).get("pin", [""])[0].lower()
    if pin and not _PIN.fullmatch(pin):
        raise errors.BadAddress(f"{shown!r}: a pin is 'sha256:' and 64 hexadecimal digits")
    port = port or _WEB_PORTS.get(parts.scheme, PORT_DEFAULT)
    return Address(parts.scheme, parts.hostname, port, unquote(parts.username or ""), pin)
