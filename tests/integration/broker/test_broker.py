"""The engine's process with a real server: starting, restarting, its end with its parent, and what goes wrong."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from farmhand import errors
from farmhand.engine.broker import Broker, find_server
from farmhand.engine.server_binary import VARIABLE
from farmhand.security.permissions import Role

# ---- starting, stopping, starting again


def test_start_and_stop(tmp_path: Path, config_in: Any) -> None:
    news: list[int] = []
    broker = Broker(config_in(tmp_path), on_exit=news.append)
    assert not broker.alive
    broker.start()
    assert broker.alive
    assert broker.ports is not None
    assert broker.address == f"nats://127.0.0.1:{broker.ports.nats}"
    assert broker.websocket_address is None
    assert psutil.Process(broker.pid).name().startswith("nats-server"), "the launcher is gone"
    with pytest.raises(TimeoutError):
        broker.wait(0)
    with pytest.raises(errors.EngineStartFailed, match="runs already"):
        broker.start()
    assert broker.stop() == 0
    assert not broker.alive
    assert broker.stop() == 0, "stopping twice is harmless"
    assert news == [], "an end that was asked for is no news"


def test_the_configuration_is_private_and_the_store_where_it_was_wanted(broker: Broker) -> None:
    assert broker.config.store_dir.stat().st_mode & 0o777 == 0o700
    assert (broker.config.store_dir / "jetstream").is_dir()
    assert broker.max_file_store > 0


def test_the_websocket_door(broker: Broker) -> None:
    assert broker.websocket_address is not None
    host, port = broker.websocket_address.removeprefix("ws://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 101")


def test_two_at_once(tmp_path: Path, raw: Any, config_in: Any) -> None:
    with Broker(config_in(tmp_path / "1")) as one, Broker(config_in(tmp_path / "2")) as two:
        assert one.address != two.address
        for broker in (one, two):
            raw(broker, Role.CLIENT).close()


def test_after_kill_9_it_starts_on_the_same_ports_with_what_was_stored(
    tmp_path: Path, raw: Any, config_in: Any
) -> None:
    ended, codes = threading.Event(), list[int]()
    broker = Broker(config_in(tmp_path, websocket_port=-1), on_exit=lambda code: (codes.append(code), ended.set())[1])
    broker.start()
    try:
        with raw(broker, Role.STEWARD) as steward:
            steward.ask("$JS.API.STREAM.CREATE.WORK", '{"name": "WORK", "subjects": ["work.*.*"], "storage": "file"}')
            assert steward.ask("work.a.s1", "kept")["seq"] == 1
        ports = broker.ports
        os.kill(broker.pid, signal.SIGKILL)
        assert ended.wait(5)
        assert codes == [-signal.SIGKILL]
        broker.start()
        assert broker.ports == ports
        with raw(broker, Role.STEWARD) as steward:
            assert steward.ask("$JS.API.STREAM.INFO.WORK")["state"]["messages"] == 1
    finally:
        broker.kill()
    assert codes == [-signal.SIGKILL], "the second end was asked for"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked for it")
def test_the_server_dies_with_its_parent(tmp_path: Path, config_in: Any) -> None:
    config = config_in(tmp_path)
    program = (
        "import sys\nfrom pathlib import Path\nfrom farmhand.engine.broker import Broker, BrokerConfig\n"
        "folder = Path(sys.argv[1])\n"
        "broker = Broker(BrokerConfig(folder=folder, store_dir=folder / 'store', users_conf=folder / 'users.conf'))\n"
        "import threading\n"
        "starter = threading.Thread(target=broker.start)\nstarter.start()\nstarter.join()\n"  # a thread that ends
        "print(broker.pid, broker.alive, flush=True)\nsys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(config.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid, alive = parent.stdout.readline().split()
        assert alive == "True"
        server = os.pidfd_open(int(pid))  # tells the end even when nobody has collected the exit code yet
        try:
            assert not select.select([server], [], [], 0)[0]
            parent.kill()
            assert select.select([server], [], [], 5)[0]
        finally:
            os.close(server)


# ---- what goes wrong is named


def test_a_port_in_use(broker: Broker, tmp_path: Path, config_in: Any) -> None:
    assert broker.ports is not None
    other = Broker(config_in(tmp_path, port=broker.ports.nats))
    with pytest.raises(errors.PortInUse, match=str(broker.ports.nats)):
        other.start()
    assert not other.alive


def test_a_configuration_that_the_server_refuses(tmp_path: Path, config_in: Any) -> None:
    config = config_in(tmp_path)
    config.users_conf.write_text("accounts { FARM { users: [ { nkey: nonsense } ] } }")
    broker = Broker(config)
    with pytest.raises(errors.EngineStartFailed, match=r"nonsense|nkey"):
        broker.start()
    assert not broker.alive


def test_a_server_without_users_does_not_stay_up(tmp_path: Path, config_in: Any) -> None:
    config = config_in(tmp_path)
    config.users_conf.write_text("accounts { FARM { jetstream: enabled, users: [] } }")
    broker = Broker(config)
    with pytest.raises(errors.EngineStartFailed, match="let everybody in"):
        broker.start()
    assert not broker.alive


def test_a_deadline_leaves_nothing_behind(tmp_path: Path, config_in: Any) -> None:
    broker = Broker(config_in(tmp_path))
    with pytest.raises(errors.EngineStartFailed, match="not ready in time"):
        broker.start(deadline_s=-1)
    assert not psutil.pid_exists(broker.pid)


def fake_server(path: Path, says: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_a_version_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config_in: Any) -> None:
    monkeypatch.setenv(VARIABLE, str(fake_server(tmp_path / "old", "nats-server: v2.9.0")))
    with pytest.raises(errors.ServerTooOld, match=r"2\.9\.0; 2\.12 or later"):
        Broker(config_in(tmp_path)).start()


@pytest.mark.parametrize("says", ["", "hello"])
def test_a_program_that_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    monkeypatch.setenv(VARIABLE, str(fake_server(tmp_path / "other", says)))
    with pytest.raises(errors.ServerNotFound, match="is no nats-server"):
        find_server()


def test_a_missing_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config_in: Any) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(errors.ServerNotFound, match=VARIABLE):
        Broker(config_in(tmp_path)).start()


def test_the_packaged_program_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "")
    path, version = find_server()
    assert path.is_file()
    assert tuple(map(int, version.split("."))) >= (2, 12)
