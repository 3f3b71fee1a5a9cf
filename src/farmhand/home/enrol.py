"""Joining a farm with its join line: make a key, show the token, keep what is needed to come back."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import msgspec

from farmhand import errors
from farmhand.engine.connection import Connection, Options
from farmhand.home import paths
from farmhand.home.login import options, tls_context
from farmhand.home.process import new_loop
from farmhand.model import messages
from farmhand.model.address import Address
from farmhand.model.messages import JoinRequest
from farmhand.model.version import VERSION
from farmhand.security.accounts import JOIN_USER
from farmhand.security.joinline import parse_join_line
from farmhand.security.nkeys import KeyPair, load_seed, store_seed
from farmhand.security.permissions import Role, inbox_prefix
from farmhand.security.private_files import make_private_folder, write_private


class Enrolled(msgspec.Struct):
    """What this machine keeps of a farm it has joined."""

    address: Address
    role: Role
    name: str
    key: Path
    ca: Path | None

    def options(self) -> Options:
        """How to connect with it."""
        return options(self.address, self.key, self.role, self.name, self.ca)


def enrol(text: str, role: Role, name: str = "") -> Enrolled:
    """Join with a join line, or come back with what an earlier join left.

    Raises: `BadAddress`, `WrongPin`, `CredentialRefused`, `NameTaken`, `EngineUnreachable`, `VersionMismatch`.
    """
    line = parse_join_line(text)
    folder = paths.known(line.address)
    make_private_folder(folder)
    name = name or _own_name(folder, role)
    key = folder / f"{role}-{name}.nk"
    ca = _trust(line.address, line.pin, folder)
    found = Enrolled(line.address, role, name, key, ca)
    if not key.exists():
        store_seed(key, KeyPair.generate())
    loop = new_loop()
    try:
        loop.run_until_complete(_join(found, line.token))
    finally:
        loop.close()
    return found


def _own_name(folder: Path, role: Role) -> str:
    """The name that this machine has had in that farm, or a new one."""
    keys = sorted(folder.glob(f"{role}-*.nk"))
    return keys[0].stem.removeprefix(f"{role}-") if keys else f"{paths.machine_name()}-{secrets.token_hex(2)}"


def _trust(address: Address, pin: str, folder: Path) -> Path | None:
    """The farm's CA, fetched and checked against the pin at the first join."""
    if not address.encrypted or not pin:
        return None
    path = folder / "ca.pem"
    from farmhand.security import authority

    write_private(path, authority.fetch_pinned_ca(address.host, address.port, pin, handshake_first=address.scheme == "wss"))
    return path


async def _join(found: Enrolled, token: str) -> None:
    """Show the token and our public key. A farm that knows the key already says yes again."""
    inbox = inbox_prefix(Role.JOIN, JOIN_USER)
    login = Options(address=found.address, name=f"join:{found.name}", inbox=inbox, user=JOIN_USER, password=token,
                    tls=tls_context(found.address, found.ca))  # fmt: skip
    connection = await Connection.open(login)
    try:
        pair = load_seed(found.key)
        request = JoinRequest(messages.PROTOCOL, VERSION, pair.public, found.role, found.name)
        answer = messages.read_answer((await connection.request("api.join", messages.encode(request))).data)
    except (errors.NoResponder, TimeoutError):
        raise errors.EngineUnreachable(f"{found.address} runs, but no steward answers") from None
    finally:
        await connection.close()
    if answer.error:
        kind: Any = getattr(errors, answer.kind, errors.SecurityError)
        raise kind(answer.error)
    await asyncio.sleep(0)
