"""Joining a farm with its join line: make a key, show the token, keep what is needed to come back."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import tempfile
from pathlib import Path

import msgspec

from farmhand import errors
from farmhand.engine.asking import ask_steward
from farmhand.engine.connection import Connection
from farmhand.engine.options import Options
from farmhand.home import paths
from farmhand.home.login import options, tls_context
from farmhand.home.process import new_loop
from farmhand.model import limits, messages
from farmhand.model.address import Address, parse_address
from farmhand.model.messages import JoinRequest
from farmhand.model.version import VERSION
from farmhand.security.accounts import JOIN_USER
from farmhand.security.joinline import parse_join_line
from farmhand.security.nkeys import KeyPair, load_seed, store_seed
from farmhand.security.permissions import Role, inbox_prefix
from farmhand.security.private_files import make_private_folder, write_private

log = logging.getLogger("farmhand.home")


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
    if line.server:
        raise errors.BadAddress(
            "this is the line for a further server: `farmhand up --cluster LINE`; nodes and clients take the other one"
        )
    folder = _writable(paths.known(line.address), role)
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
    write_private(_note(folder, role, name), msgspec.json.encode(str(line.address)) + b"\n")
    return found


def _writable(folder: Path, role: Role) -> Path:
    """The folder, or for a client on a device without a home to write to one that ends with this process."""
    try:
        make_private_folder(folder)
        if os.access(folder, os.W_OK):
            return folder
        problem = "it is read-only"
    except OSError as error:
        problem = error.strerror or str(error)
    if role is not Role.CLIENT:
        raise errors.CredentialUnsafe(
            f"{folder} cannot be written ({problem}); set FARMHAND_HOME to a folder that can be"
        )
    return Path(_temporary(folder, problem).name)


@functools.cache
def _temporary(folder: Path, problem: str) -> tempfile.TemporaryDirectory[str]:
    """What stands in for a folder until this program ends."""
    log.warning("%s cannot be written (%s): the credential is kept until this program ends", folder, problem)
    return tempfile.TemporaryDirectory(prefix="farmhand-client-")


def earlier(address: Address, role: Role, name: str = "") -> list[Enrolled]:
    """What earlier joins of this machine left: its identities at that address, or the one of that name."""
    folder = paths.known(address)
    found = []
    for key in sorted(folder.glob(f"{role}-{name or '*'}.nk")):
        own = key.stem.removeprefix(f"{role}-")
        with contextlib.suppress(OSError, msgspec.DecodeError, errors.BadAddress):
            there = parse_address(msgspec.json.decode(_note(folder, role, own).read_bytes(), type=str))
            ca = folder / "ca.pem"
            found.append(Enrolled(there, role, own, key, ca if ca.exists() else None))
    return found


def _note(folder: Path, role: Role, name: str) -> Path:
    """Says that this identity was taken in, and at which address. A key alone may be from a join that failed."""
    return folder / f"{role}-{name}.json"


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

    write_private(
        path, authority.fetch_pinned_ca(address.host, address.port, pin, handshake_first=address.scheme == "wss")
    )
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
        await ask_steward(connection, "join", messages.encode(request), timeout=limits.CONNECT_S)
    finally:
        await connection.close()
