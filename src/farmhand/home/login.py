"""Connecting to a farm with a credential of this machine."""

from __future__ import annotations

import ssl
from pathlib import Path

from farmhand import errors
from farmhand.engine.connection import Options
from farmhand.model.address import Address
from farmhand.security.nkeys import load_seed
from farmhand.security.permissions import Role, inbox_prefix


def options(address: Address, key: Path, role: Role, name: str, ca: Path | None = None) -> Options:
    """How to connect as `name`. Raises `CredentialMissing`, `CredentialUnsafe`, `CredentialMalformed`."""
    return Options(
        address=address,
        name=f"{role}:{name}",
        inbox=inbox_prefix(role, name),
        signer=load_seed(key),
        tls=tls_context(address, ca),
    )


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
