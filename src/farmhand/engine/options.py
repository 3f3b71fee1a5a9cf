"""How to reach the engine, and as whom."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Protocol

import msgspec

from farmhand.model import limits
from farmhand.model.address import Address


class Signer(Protocol):
    """Who we are: a public key and a way to sign the server's nonce."""

    @property
    def public(self) -> str:
        """The public key, `U...`."""

    def sign(self, nonce: bytes) -> str:
        """The signature of the server's nonce, base64url."""


class Options(msgspec.Struct, kw_only=True):
    """How to reach the engine and as whom. Times in seconds.

    others: more of its servers. keep: told of all that are known now, when that changes. follow: False for who belongs to
    one server and goes to no other.
    """

    address: Address
    others: tuple[Address, ...] = ()
    keep: Callable[[tuple[Address, ...]], None] | None = None
    follow: bool = True
    name: str
    inbox: str  # the prefix of this connection's private subjects
    signer: Signer | None = None
    user: str = ""
    password: str = ""
    tls: ssl.SSLContext | None = None
    connect_timeout: float = limits.CONNECT_S
    ping_interval: float = limits.PING_INTERVAL_S
