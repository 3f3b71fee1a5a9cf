"""What the tests of the engine's process share: a server, its users, and a client on a bare socket.

A bare socket, so that what is proved is what the server does, not what our own client asks of it.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import pytest

from farmhand.engine.broker import Broker, BrokerConfig
from farmhand.engine.options import Options
from farmhand.model.address import parse_address
from farmhand.security.accounts import JOIN_USER, SERVER_USER, User, UserStore, new_token
from farmhand.security.nkeys import KeyPair
from farmhand.security.permissions import Role, inbox_prefix

TOKEN = new_token()
SERVER_TOKEN = new_token()
KEYS = {role: KeyPair.generate() for role in (Role.STEWARD, Role.SYSTEM, Role.CLIENT, Role.NODE)}
NAMES = {Role.STEWARD: "steward", Role.SYSTEM: "system", Role.CLIENT: "ann", Role.NODE: "n1", Role.JOIN: JOIN_USER,
         Role.SERVER: SERVER_USER}  # fmt: skip


class Refused(Exception):
    """The server answered -ERR."""


class Raw:
    """One connection on a bare socket."""

    Refused = Refused

    def __init__(self, broker: Broker, role: Role | None = None, *, key: KeyPair | None = None, name: str = "",
                 tls: ssl.SSLContext | None = None, **fields: object) -> None:  # fmt: skip
        assert broker.ports is not None
        self.inbox = inbox_prefix(role or Role.CLIENT, name or NAMES[role or Role.CLIENT])
        self.sock = socket.create_connection(("127.0.0.1", broker.ports.nats), timeout=5)
        self.file = self.sock.makefile("rb")
        self.info = json.loads(self.line().removeprefix("INFO "))
        if tls is not None:
            self.file.close()
            self.sock = tls.wrap_socket(self.sock, server_hostname="127.0.0.1")
            self.file = self.sock.makefile("rb")
        key = key or (KEYS.get(role) if role else None)
        if key is not None:
            fields |= {"nkey": key.public, "sig": key.sign(self.info["nonce"].encode())}
        if role is Role.JOIN:
            fields = {"user": JOIN_USER, "pass": TOKEN} | fields
        if role is Role.SERVER:
            fields = {"user": SERVER_USER, "pass": SERVER_TOKEN} | fields
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, **fields}
        self.send(f"CONNECT {json.dumps(options)}\r\nPING\r\n")
        answer = self.line()
        if answer != "PONG":
            self.close()
            raise Refused(answer)
        self.sid = 0

    def send(self, text: str) -> None:
        self.sock.sendall(text.encode())

    def line(self) -> str:
        while True:
            line = self.file.readline().decode().strip()
            if not line.startswith("INFO ") or not hasattr(self, "sid"):
                return line

    def listen(self, subject: str) -> int:
        """Subscribe; raises `Refused` when that is not allowed."""
        self.sid += 1
        self.send(f"SUB {subject} {self.sid}\r\n")
        self.settle()
        return self.sid

    def tell(self, subject: str, payload: str = "", reply: str = "") -> None:
        """Publish; raises `Refused` when that is not allowed."""
        self.put(subject, payload, reply)
        self.settle()

    def put(self, subject: str, payload: str = "", reply: str = "") -> None:
        self.send(f"PUB {subject} {reply} {len(payload.encode())}\r\n{payload}\r\n")

    def settle(self) -> None:
        """Wait until the server has read all that was sent."""
        self.send("PING\r\n")
        answer = self.line()
        if answer.startswith("-ERR"):
            assert self.line() == "PONG"
            raise Refused(answer)
        assert answer == "PONG", answer

    def next(self) -> tuple[str, str, str]:
        """The next message: subject, reply, payload."""
        parts = self.line().split()
        assert parts[0] in {"MSG", "HMSG"}, parts
        size, head = int(parts[-1]), int(parts[-2]) if parts[0] == "HMSG" else 0
        payload = self.file.read(size + 2)[head:-2].decode()
        count = len(parts) - (1 if parts[0] == "HMSG" else 0)
        return parts[1], parts[3] if count == 5 else "", payload

    def ask(self, subject: str, payload: str = "") -> Any:
        """A request; its answer, which is JSON."""
        inbox = f"{self.inbox}.answer{self.sid}"
        sid = self.listen(inbox)
        self.send(f"UNSUB {sid} 1\r\n")
        self.put(subject, payload, inbox)
        return json.loads(self.next()[2] or "null")

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def enrol(folder: Path) -> UserStore:
    store = UserStore(folder, durable=False)
    store.add(*(User(role=role, name=NAMES[role], public_key=key.public) for role, key in KEYS.items()))
    store.set_join_token(TOKEN)
    store.put(msgspec.structs.replace(store.load(), server_token=SERVER_TOKEN))
    return store


def login(broker: Broker, role: Role) -> Options:
    """For our own client."""
    return Options(
        name=role, address=parse_address(broker.address), inbox=inbox_prefix(role, NAMES[role]), signer=KEYS[role]
    )


def config_in(folder: Path, **changes: Any) -> BrokerConfig:
    folder.mkdir(parents=True, exist_ok=True)
    conf = enrol(folder).conf_path
    settings: dict[str, Any] = {"folder": folder, "store_dir": folder / "store", "users_conf": conf} | changes
    return BrokerConfig(**settings)


@pytest.fixture(scope="session", name="raw")
def _raw() -> type[Raw]:
    """The client. `Raw.Refused` is what it raises."""
    return Raw


@pytest.fixture(scope="session", name="config_in")
def _config_in() -> Callable[..., BrokerConfig]:
    """`config_in(folder, **changes)`: a configuration with a user of each role."""
    return config_in


@pytest.fixture(scope="session", name="keys")
def _keys() -> dict[Role, KeyPair]:
    return KEYS


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One server for the tests that do it no harm, in a folder with a blank and more in its name."""
    with Broker(config_in(tmp_path_factory.mktemp("a farm") / 'with "quotes" é', websocket_port=-1)) as broker:
        with Raw(broker, Role.STEWARD) as steward:
            for stream, subjects in {"WORK": "work.*.*", "RESULT": "res.*.*", "BLOB": "blob.*.*.*"}.items():
                definition = {"name": stream, "subjects": [subjects], "storage": "file", "allow_direct": True}
                assert "error" not in steward.ask(f"$JS.API.STREAM.CREATE.{stream}", json.dumps(definition))
        yield broker
