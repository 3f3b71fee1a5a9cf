"""This machine's server of a cluster: its name and ports, and how it becomes one of three.

The first server makes them. A further one shows the token of a server line, and is told what every server of a farm has: the
authority's key, the keys of the farm's own parts, the register of its users. From then on it is like the first.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

import msgspec

from farmhand import errors
from farmhand.engine import subjects
from farmhand.engine.asking import ask
from farmhand.engine.broker import free_port
from farmhand.engine.connection import Connection
from farmhand.engine.options import Options
from farmhand.home.login import tls_context
from farmhand.home.paths import FarmFolder, machine_name
from farmhand.home.process import new_loop
from farmhand.model import limits, messages
from farmhand.model.address import Address
from farmhand.model.messages import ServerRequest, ServerWelcome
from farmhand.model.version import VERSION
from farmhand.security.accounts import SERVER_USER, Register, Server, User, UserStore, new_token
from farmhand.security.joinline import JoinLine, parse_join_line
from farmhand.security.nkeys import KeyPair, load_seed, store_seed
from farmhand.security.permissions import Role, inbox_prefix
from farmhand.security.private_files import read_private, write_private

SERVERS: Final = 3  # each keeps a copy of everything; two of them are a majority
SHARED_KEYS: Final = ("steward", "system", "owner")  # the farm's own parts, the same on each server
_FILE: Final = "cluster.json"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One server. `host` is what others are told. `replaces`: the dead server whose place it takes.

    replaced: another one has taken its place while it was away.
    """

    name: str
    secret: str  # with which servers know each other, beside their certificates
    host: str
    port: int
    route_port: int
    replaces: str = ""
    replaced: bool = False

    @property
    def server(self) -> Server:
        """As the register has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return Server(self.name, f"{host}:{self.port}", f"{host}:{self.route_port}")

    def node_name(self, index: int) -> str:
        """Of one of the nodes that run beside it."""
        return self.name if index == 0 else f"{self.name}-{index + 1}"


def member(root: Path) -> Member | None:
    """What this folder's farm is in a cluster; None when it is in none. Raises `CredentialUnsafe`, `CredentialMalformed`."""
    path = root / _FILE
    try:
        return msgspec.json.decode(read_private(path), type=Member)
    except errors.CredentialMissing:
        return None
    except msgspec.DecodeError as error:
        raise errors.CredentialMalformed(f"{path}: {error}") from None


def found(root: Path, listen: str, host: str, port: int = 0) -> Member:
    """Make this machine the first server of a cluster."""
    folder = FarmFolder(root)
    folder.make()
    first = _new_member(folder, listen, host, port, secrets.token_urlsafe(24))
    store = UserStore(root)
    store.put(msgspec.structs.replace(store.load(), server_token=new_token(), join_token=new_token()))
    _write(root, first)
    return first


def join(root: Path, text: str, listen: str, host: str, port: int = 0) -> Member:
    """Make this machine a further server, by a server line.

    Raises: `BadAddress`, `WrongPin`, `CredentialRefused`, `EngineUnreachable`, `VersionMismatch`, `ClusterComplete`.
    """
    line = parse_join_line(text)
    if not line.server:
        raise errors.BadAddress(
            "this line is for nodes and clients; a further server takes the one that `farmhand up --cluster` printed"
        )
    folder = FarmFolder(root)
    folder.make()
    ca = _trust(line, folder)
    loop = new_loop()
    try:
        welcome = loop.run_until_complete(_ask(line, ca))
    finally:
        loop.close()
    own = _new_member(folder, listen, host, port, welcome.secret)
    own = msgspec.structs.replace(own, replaces=welcome.replaces)
    _take_over(folder, welcome)
    _write(root, own)
    return own


def mark_replaced(root: Path, own: Member) -> None:
    """Remember that another one has its place: its old copies must not come back."""
    _write(root, msgspec.structs.replace(own, replaced=True))


def check_place(root: Path, own: Member | None) -> None:
    """Raise `ClusterComplete` for a server that was replaced."""
    if own is not None and own.replaced:
        raise errors.ClusterComplete(
            f"server {own.name} was replaced while it was away: others have its place and its work. Delete {root}, and start "
            "it with a server line when the cluster lacks one"
        )


def _new_member(folder: FarmFolder, listen: str, host: str, port: int, secret: str) -> Member:
    name = f"{machine_name()}-{secrets.token_hex(3)}"
    return Member(name=name, secret=secret, host=host, port=port or folder.remembered_port() or free_port(listen),
                  route_port=free_port(listen))  # fmt: skip


def _write(root: Path, own: Member) -> None:
    write_private(root / _FILE, msgspec.json.format(msgspec.json.encode(own)) + b"\n")


def _trust(line: JoinLine, folder: FarmFolder) -> Path | None:
    """The farm's authority, if the address belongs to the farm of the pin."""
    if not line.address.encrypted:
        return None
    from farmhand.security import authority

    address = line.address
    pem = authority.fetch_pinned_ca(address.host, address.port, line.pin, handshake_first=address.scheme == "wss")
    path = folder.tls / "joining.pem"
    write_private(path, pem)
    return path


async def _ask(line: JoinLine, ca: Path | None) -> ServerWelcome:
    login = Options(address=line.address, name="joining server", inbox=inbox_prefix(Role.SERVER, SERVER_USER),
                    user=SERVER_USER, password=line.token, tls=tls_context(line.address, ca), follow=False)  # fmt: skip
    connection = await Connection.open(login)
    try:
        request = messages.encode(ServerRequest(messages.PROTOCOL, VERSION))
        return msgspec.convert(
            await ask(connection, subjects.SERVER_JOIN, request, timeout=limits.CONNECT_S), ServerWelcome
        )
    finally:
        await connection.close()


def _take_over(folder: FarmFolder, welcome: ServerWelcome) -> None:
    """Become like the first. Keys and users of a farm that ran in this folder before are replaced."""
    write_private(folder.tls / "ca.key", welcome.ca_key.encode())
    write_private(folder.ca, welcome.ca.encode())
    for name, seed in welcome.seeds.items():
        store_seed(folder.key(name), KeyPair.from_seed(seed), replace=True)
    UserStore(folder.root).put(msgspec.json.decode(welcome.register, type=Register))


def add_nodes(root: Path, own: Member, count: int) -> list[User]:
    """Make keys for the nodes beside a server where there are none. The users that its nodes are."""
    folder = FarmFolder(root)
    for path in (folder.key(own.node_name(index)) for index in range(count)):
        if not path.exists():
            store_seed(path, KeyPair.generate())
    return own_nodes(root, own)


def own_nodes(root: Path, own: Member) -> list[User]:
    """The users that the nodes beside a server are, by their keys."""
    paths = sorted(FarmFolder(root).keys.glob(f"{own.name}*.nk"))
    return [User(role=Role.NODE, name=path.stem, public_key=load_seed(path).public) for path in paths]


def server_line(address: Address, pin: str, register: Register) -> str:
    """What a further server is started with."""
    bare = msgspec.structs.replace(address, token="", pin="")
    return str(JoinLine(bare, register.server_token, pin if address.encrypted else "", server=True))
