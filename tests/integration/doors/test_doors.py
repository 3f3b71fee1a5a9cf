"""The same code through every door of a farm: nats, tls, ws and wss, with this machine's own credential and with a join line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.farm import FarmProcess

from farmhand import Farm, errors
from farmhand.home import paths
from farmhand.model.address import parse_address

PATIENCE_S = 60


def double(value: int) -> int:
    return 2 * value


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"], ids=["loopback", "network"])
def running(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[paths.FarmFile]:
    """A farm with one node that listens on loopback in plain text, or everywhere with TLS."""
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path / "own home"))
    with FarmProcess(tmp_path / "own home", nodes=(1,), listen=request.param, websocket_port=-1) as running:
        yield running.file


def websocket_line(file: paths.FarmFile) -> str:
    """The join line as it would be for the WebSocket door."""
    scheme, _, rest = file.join_line.partition("://")
    port = parse_address(file.websocket).port
    return f"{'wss' if scheme == 'tls' else 'ws'}://{rest.replace(f':{file.port}', f':{port}')}"


def test_each_door_takes_this_machines_own_credential(running: paths.FarmFile) -> None:
    for address in (running.address, running.websocket):
        with Farm(address) as farm:
            assert list(farm.map(double, range(300))) == [2 * value for value in range(300)]
            assert farm.submit(len, b"x" * 3_000_000).result(PATIENCE_S) == 3_000_000


def test_each_door_takes_a_join_line_and_remembers_the_machine(
    running: paths.FarmFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path / "another home"))
    for line in (running.join_line, websocket_line(running)):
        with Farm(line) as farm:
            assert farm.submit(double, 21).result(PATIENCE_S) == 42
        address = parse_address(line)
        with Farm(str(address)) as farm:  # without the token: the credential made above is enough
            assert farm.submit(double, 4).result(PATIENCE_S) == 8


def test_an_address_without_a_credential_is_refused_by_name(
    running: paths.FarmFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path / "a stranger"))
    with pytest.raises(errors.CredentialMissing, match="no credential"):
        Farm(running.address)
