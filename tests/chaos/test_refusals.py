"""An engine that is not there, a wrong password, a version too old: a named error within 5 s; who is enrolled tries for ever."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.chaos.farm import PATIENCE_S, FarmProcess, wait_until
from tests.chaos.work import number

from farmhand import Farm, errors
from farmhand.engine.connection import Connection
from farmhand.home import paths
from farmhand.home.enrol import enrol
from farmhand.home.login import options
from farmhand.model.address import Address, parse_address
from farmhand.security.accounts import new_token
from farmhand.security.nkeys import KeyPair, store_seed
from farmhand.security.permissions import Role

Measured = Callable[[str, float, float], None]
JOIN = "nats://{token}@127.0.0.1:{port}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def server_saying(greeting: bytes) -> Iterator[int]:
    """Something that listens and says this to everybody who comes; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            try:
                while True:
                    peer, _ = server.accept()
                    kept.append(peer)
                    peer.sendall(greeting)
            except OSError:
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for peer in kept:
            peer.close()


OLD_INFO = {"server_id": "X", "version": "2.9.0", "max_payload": 1048576, "headers": True, "nonce": "n"}
OLD = b"INFO " + json.dumps(OLD_INFO).encode() + b"\r\n"
NOT_THERE, SILENT, STRANGE, TOO_OLD = (
    "nobody listens",
    "it says nothing",
    "it is a web server",
    "its version is too old",
)


@contextmanager
def broken_engine(what: str) -> Iterator[int]:
    if what == NOT_THERE:
        yield free_port()
        return
    with server_saying({SILENT: b"", STRANGE: b"HTTP/1.1 400 Bad Request\r\n\r\n", TOO_OLD: OLD}[what]) as port:
        yield port


def attempt(who: str, port: int) -> None:
    if who == "client":
        address = parse_address(f"nats://127.0.0.1:{port}")
        paths.known(address).mkdir(parents=True)
        store_seed(paths.known(address) / "client-me.nk", KeyPair.generate())
        Farm(str(address))
    elif who == "first join of a client":
        Farm(JOIN.format(token=new_token(), port=port))
    else:
        enrol(JOIN.format(token=new_token(), port=port), Role.NODE)


def refused(what: str, who: str) -> tuple[str, float, Exception | None]:
    with broken_engine(what) as port:
        began = time.monotonic()
        try:
            attempt(who, port)
        except errors.FarmhandError as error:
            return f"{who}, {what}", time.monotonic() - began, error
    return f"{who}, {what}", time.monotonic() - began, None


def test_an_engine_that_is_not_what_it_should_be(measured: Measured) -> None:
    cases = [(what, who) for what in (NOT_THERE, SILENT, STRANGE, TOO_OLD)
             for who in ("client", "first join of a client", "first join of a node")]  # fmt: skip
    with ThreadPoolExecutor(len(cases)) as threads:  # each waits for some seconds, so they wait together
        for what, seconds, error in threads.map(lambda case: refused(*case), cases):
            wanted = errors.EngineTooOld if TOO_OLD in what else errors.EngineUnreachable
            assert type(error) is wanted
            measured(f"{what}: {wanted.__name__}: {error}", seconds, 5.0)


def test_a_wrong_password_and_a_key_that_nobody_enrolled(home: Path, tmp_path: Path, measured: Measured) -> None:
    with FarmProcess(home, nodes=()) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARMHAND_HOME", str(tmp_path / "another machine"))
        wrong = JOIN.format(token=new_token(), port=running.file.port)
        cases: dict[str, Callable[[], object]] = {
            "wrong token of a client": lambda: Farm(wrong),
            "wrong token of a node": lambda: enrol(wrong, Role.NODE),
            "unknown key": lambda: _strange_key(parse_address(running.file.address)),
        }
        for who, action in cases.items():
            began = time.monotonic()
            with pytest.raises(errors.CredentialRefused) as raised:
                action()
            measured(f"{who}: {raised.value}", time.monotonic() - began, 5.0)


def _strange_key(address: Address) -> None:
    key = paths.known(address) / "client-stranger.nk"
    key.parent.mkdir(parents=True, exist_ok=True)
    store_seed(key, KeyPair.generate())

    async def connect() -> None:
        connection = await Connection.open(options(address, key, Role.CLIENT, "stranger"))
        await connection.close()

    asyncio.run(connect())


def test_an_enrolled_node_waits_for_its_engine(home: Path, tmp_path: Path) -> None:
    node_home = tmp_path / "another machine"
    with FarmProcess(home, nodes=()) as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FARMHAND_HOME", str(node_home))
            enrolled = enrol(running.file.join_line, Role.NODE, "far")
        port = running.file.port
    log = tmp_path / "node.log"
    command = [sys.executable, "-P", "-m", "farmhand.node", "--address", str(enrolled.address), "--key", str(enrolled.key),
               "--node", "far", "--slots", "1", "--cache", str(tmp_path / "cache"), "--spool", str(tmp_path / "spool"),
               "--grace", "0.5", "--log", str(log)]  # fmt: skip
    node = subprocess.Popen(command)
    try:
        wait_until(lambda: log.exists() and log.read_text().count("trying again") >= 6, "several tries")
        assert node.poll() is None
        with FarmProcess(home, nodes=(), port=port) as running, Farm(running.file.address) as farm:
            began = time.monotonic()
            assert farm.submit(number, 3).result(PATIENCE_S) == 3
            print(f"the node worked {time.monotonic() - began:.2f} s after its engine was there")
    finally:
        node.terminate()
        assert node.wait(PATIENCE_S) == 0
