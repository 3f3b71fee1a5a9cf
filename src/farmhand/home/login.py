"""Connecting to a farm with a credential of this machine."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import msgspec

from farmhand import errors
from farmhand.engine.options import Options
from farmhand.model.address import Address, parse_address
from farmhand.security.nkeys import load_seed
from farmhand.security.permissions import Role, inbox_prefix
from farmhand.security.private_files import write_private

_SERVERS = "servers.json"  # beside the key: where else than at its address the farm was seen


def options(address: Address, key: Path, role: Role, name: str, ca: Path | None = None) -> Options:
    """How to connect as `name`. The servers of a cluster are kept beside the key, so that any of them is enough next time.

    Raises `CredentialMissing`, `CredentialUnsafe`, `CredentialMalformed`.
    """
    note = key.parent / _SERVERS

    def keep(known: tuple[Address, ...]) -> None:
        with contextlib.suppress(OSError):  # a device without a place to write to asks again
            write_private(note, msgspec.json.encode([str(each) for each in known]) + b"\n", durable=False)

    return Options(
        address=address,
        others=_seen(note, address),
        keep=keep,
        name=f"{role}:{name}",
        inbox=inbox_prefix(role, name),
        signer=load_seed(key),
        tls=tls_context(address, ca),
    )


def _seen(note: Path, address: Address) -> tuple[Address, ...]:
    """The servers that were there the last time, by the way in that `address` takes."""
    try:
        known = [parse_address(text) for text in msgspec.json.decode(note.read_bytes(), type=list[str])]
    except (OSError, msgspec.DecodeError, errors.BadAddress):
        return ()
    same = [each for each in known if each.scheme == address.scheme]
    # A note about another farm, which had this folder or this address before, would lead astray.
    return tuple(each for each in same if each != address) if address in same else ()


def tls_context(address: Address, ca: Path | None) -> ssl.SSLContext | None:
    """TLS as this farm's CA wants it; None for plain text. Without a CA only `wss://` works, behind a public certificate."""
    if not address.encrypted:
        return None
    if ca is not None and ca.exists():
        from farmhand.security.authority import client_context

        return client_context(ca)
    if address.scheme == "wss":
        return ssl.create_default_context()
    raise errors.CredentialMissing(f"the CA of {address} is not known here; join it with its join line first")
