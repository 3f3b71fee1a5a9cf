"""Join lines: all that a machine needs to join a farm, in one line to copy.

    tls://TOKEN@host:4222?pin=sha256:...        the pin names the farm's certificate authority
    nats://TOKEN@127.0.0.1:4222                 on the same machine
    nats://TOKEN@10.0.0.5:4222?insecure=plaintext    printed only by a farm started with --insecure-plaintext
    tls://TOKEN@host:4222?pin=sha256:...&for=server  a server line: for `farmhand up --cluster` on a further server

`ws://` and `wss://` are like `nats://` and `tls://`; a `wss://` line without a pin trusts the system's authorities, as
behind a proxy with a public certificate. The line holds a secret, so no error message here repeats it.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from farmhand import errors
from farmhand.engine.broker_config import is_loopback
from farmhand.model.address import SCHEMES, Address, parse_address
from farmhand.security.accounts import is_token, new_token

__all__ = ["Address", "JoinLine", "new_token", "parse_address", "parse_join_line"]

PLAINTEXT: Final = "plaintext"  # the value of `insecure` that allows plain text off loopback
_PIN: Final = re.compile(r"sha256:[0-9a-f]{64}")
_OPTIONS: Final = ("pin", "insecure", "for")
_SERVER: Final = "server"  # the value of `for` in a server line


class JoinLine(msgspec.Struct, frozen=True):
    """`address` carries neither token nor pin here. `str()` gives the line, `repr()` hides the token."""

    address: Address
    token: str
    pin: str = ""
    insecure_plaintext: bool = False
    server: bool = False

    def __str__(self) -> str:
        scheme, _, place = str(self.address).partition("://")
        options = [f"pin={self.pin}"] if self.pin else []
        if self.insecure_plaintext:
            options.append(f"insecure={PLAINTEXT}")
        if self.server:
            options.append(f"for={_SERVER}")
        return f"{scheme}://{self.token}@{place}{'?' + '&'.join(options) if options else ''}"

    def __repr__(self) -> str:
        return f"JoinLine({self.address}, pin={self.pin!r})"


def parse_join_line(text: str) -> JoinLine:
    """Read a join line.

    Raises: `BadAddress` that names the part that is wrong; `PlaintextRefused` for plain text off loopback without
    `insecure=plaintext`, before anything is sent.
    """
    text = text.strip().strip("'\"")
    if "://" not in text:
        raise errors.BadAddress(
            f"the join line has no scheme; it starts with one of {', '.join(s + '://' for s in SCHEMES)}"
        )
    try:
        parts = urlsplit(text)
        address = msgspec.structs.replace(
            parse_address(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"), token="", pin=""
        )
    except ValueError as error:  # of urlsplit: a broken [IPv6] host
        raise errors.BadAddress(f"the join line cannot be read: {error}") from None
    if parts.path.strip("/") or parts.fragment:
        raise errors.BadAddress("the join line has something after its port that is neither a pin nor an option")
    options = _parse_options(parts.query)
    line = JoinLine(address, _parse_token(parts.netloc), options.get("pin", ""), options.get("insecure") == PLAINTEXT,
                    "for" in options)  # fmt: skip
    _check_safety(line)
    return line


def _parse_token(netloc: str) -> str:
    token, at, _ = netloc.rpartition("@")
    if not at or not token:
        raise errors.BadAddress("the join line has no token: it looks like tls://TOKEN@host:port?pin=sha256:...")
    if ":" in token:
        raise errors.BadAddress("the join line has a user and a password; it carries one token: tls://TOKEN@host:port")
    if not is_token(token):
        raise errors.BadAddress(
            "the join line's token was cut off or mistyped: 16 to 128 of A-Z, a-z, 0-9, '_' and '-'"
        )
    return token


def _parse_options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _OPTIONS or key in options:
            raise errors.BadAddress(f"the join line has an option {key[:20]!r} that is unknown or given twice")
        options[key] = value
    if "pin" in options:
        options["pin"] = options["pin"].lower()
        if not _PIN.fullmatch(options["pin"]):
            raise errors.BadAddress("the join line's pin was cut off or mistyped: 'sha256:' and 64 hexadecimal digits")
    if options.get("insecure", PLAINTEXT) != PLAINTEXT:
        raise errors.BadAddress(f"the join line's option 'insecure' can only be {PLAINTEXT!r}")
    if options.get("for", _SERVER) != _SERVER:
        raise errors.BadAddress(f"the join line's option 'for' can only be {_SERVER!r}")
    return options


def _check_safety(line: JoinLine) -> None:
    scheme, encrypted = line.address.scheme, line.address.encrypted
    if scheme == "tls" and not line.pin:
        raise errors.BadAddress(
            "the join line has no pin, so the farm's identity cannot be checked: add ?pin=sha256:..."
        )
    if line.pin and not encrypted:
        raise errors.BadAddress(
            f"the join line has a pin but its scheme {scheme}:// is plain text: use tls:// or wss://"
        )
    if not encrypted and not is_loopback(line.address.host) and not line.insecure_plaintext:
        raise errors.PlaintextRefused(
            f"{line.address} would carry the token in plain text; use the farm's tls:// line "
            f"(only a farm started with --insecure-plaintext prints one with insecure={PLAINTEXT})"
        )
