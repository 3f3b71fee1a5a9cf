"""Off loopback: plain text is refused, and a joiner finds out by the pin whom it talks to."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farmhand import errors
from farmhand.engine.broker import Broker
from farmhand.security.authority import client_context, fetch_pinned_ca, prepare
from farmhand.security.permissions import Role


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "server", "127.example.org"])
def test_plain_text_off_loopback_is_refused(tmp_path: Path, host: str, raw: Any, config_in: Any) -> None:
    with pytest.raises(errors.PlaintextRefused, match="--insecure-plaintext"):
        Broker(config_in(tmp_path, host=host))


def test_plain_text_off_loopback_says_so_at_each_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, config_in: Any
) -> None:
    broker = Broker(config_in(tmp_path, host="0.0.0.0", insecure_plaintext=True))
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING), broker:
            assert broker.address.startswith("nats://127.0.0.1:")
        assert "PLAIN TEXT" in caplog.text


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, config_in: Any) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("tls farm")
    files = prepare(folder / "tls", [], durable=False)
    config = config_in(folder, host="0.0.0.0", websocket_port=-1, tls_cert=files.cert, tls_key=files.key)
    with Broker(config) as broker:
        yield broker


def tls_folder(broker: Broker) -> Path:
    return broker.config.folder / "tls"


def test_a_joiner_gets_the_authority_that_the_pin_names(secure: Broker, tmp_path: Path, raw: Any) -> None:
    assert secure.ports is not None
    assert secure.address.startswith("tls://")
    pin = prepare(tls_folder(secure), []).pin
    pem = fetch_pinned_ca("127.0.0.1", secure.ports.nats, pin)
    assert pem == (tls_folder(secure) / "ca.pem").read_bytes()
    (tmp_path / "ca.pem").write_bytes(pem)
    with raw(secure, Role.CLIENT, tls=client_context(tmp_path / "ca.pem")) as client:
        client.tell("work.a.s1", "secret")


def test_the_websocket_door_presents_the_same(secure: Broker) -> None:
    assert secure.ports is not None
    assert secure.ports.websocket is not None
    assert secure.websocket_address is not None
    assert secure.websocket_address.startswith("wss://")
    pin = prepare(tls_folder(secure), []).pin
    assert fetch_pinned_ca("127.0.0.1", secure.ports.websocket, pin, handshake_first=True).startswith(b"-----BEGIN")


def test_another_farms_pin_does_not_fit(secure: Broker, tmp_path: Path) -> None:
    assert secure.ports is not None
    with pytest.raises(errors.WrongPin, match="does not belong to the farm"):
        fetch_pinned_ca("127.0.0.1", secure.ports.nats, prepare(tmp_path, [], durable=False).pin)


def test_an_authority_that_did_not_sign_the_leaf_does_not_help(secure: Broker, tmp_path: Path, config_in: Any) -> None:
    """Somebody in the way shows the farm's public authority beside a certificate of his own."""
    real = prepare(tls_folder(secure), [])
    files = prepare(tmp_path / "tls", [], durable=False)
    own = files.cert.read_bytes()
    files.cert.write_bytes(own[: own.index(b"-----BEGIN", 10)] + real.ca.read_bytes())
    config = config_in(tmp_path, tls_cert=files.cert, tls_key=files.key)
    with Broker(config) as impostor:
        assert impostor.ports is not None
        with pytest.raises(errors.WrongPin, match="not issued by the pinned authority"):
            fetch_pinned_ca("127.0.0.1", impostor.ports.nats, real.pin)


def test_a_client_of_another_farm_does_not_talk_to_it(secure: Broker, tmp_path: Path, raw: Any) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        raw(secure, Role.CLIENT, tls=client_context(prepare(tmp_path, [], durable=False).ca))


def test_a_plain_engine_is_not_the_farm_of_a_tls_line(broker: Broker) -> None:
    assert broker.ports is not None
    with pytest.raises(errors.WrongPin, match="plain text only"):
        fetch_pinned_ca("127.0.0.1", broker.ports.nats, "sha256:" + "0" * 64)


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO nonsense\r\n", b"INFO []\r\n"])
def test_a_stranger_is_not_an_engine(says: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: answer_once(server, says)).start()
        with pytest.raises(errors.EngineUnreachable):
            fetch_pinned_ca("127.0.0.1", server.getsockname()[1], "sha256:" + "0" * 64)


def answer_once(server: socket.socket, says: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(says)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(errors.EngineUnreachable, match="refused"):
        fetch_pinned_ca("127.0.0.1", port, "sha256:" + "0" * 64)


def test_who_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(errors.EngineUnreachable):
        fetch_pinned_ca("127.0.0.1", server.getsockname()[1], "sha256:" + "0" * 64, timeout=0.05)
