"""Three servers as people start them, off loopback: TLS at every door and route, and a client that moves over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.chaos.farm import wait_dead
from tests.integration.cli.conftest import Machine, wait_until

from farmhand import Farm
from farmhand.cli.exits import Exit
from farmhand.security.joinline import parse_join_line

ANYWHERE = ("--cluster", "--listen", "0.0.0.0")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    found = [Machine(tmp_path / name) for name in ("one", "two", "three")]
    yield found
    for machine in found:
        machine.end()


@pytest.mark.chaos
def test_three_machines_with_tls(machines: list[Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = machines
    refused = one.run("up", "--cluster", "--insecure-plaintext", "--listen", "0.0.0.0")
    assert refused.returncode == Exit.USAGE
    first = one.up(*ANYWHERE)
    assert first["tls"]
    assert first["cluster"]["problem"].startswith("1 of 3 servers have joined")
    line = first["server_line"]
    assert line.startswith("tls://")
    assert (
        one.run("status").returncode == Exit.UNREACHABLE
    )  # it says that servers lack, and does not wait for a steward
    assert one.run("join", line).returncode == Exit.USAGE
    assert two.run("up", "--cluster", first["join_line"]).returncode == Exit.USAGE
    other_pin = re.sub("sha256:.{64}", f"sha256:{'0' * 64}", line)
    assert two.run("up", "--cluster", other_pin).returncode == Exit.WRONG_PIN
    for machine in (two, three):
        said = machine.up("--cluster", line, "--listen", "0.0.0.0")
    assert said["ready"]
    wait_until(lambda: three.json("status")["cluster"]["quorum"], "the third has heard of the others")
    home = tmp_path / "a desk"
    home.mkdir()
    monkeypatch.setenv("FARMHAND_HOME", str(home))
    with Farm(said["join_line"], output=False) as farm:
        assert farm.submit(abs, -1).result(60) == 1
        engine = psutil.Process(said["engine_pid"])
        psutil.Process(said["pid"]).kill()  # nobody starts it again; the engine ends with it
        wait_dead(engine)
        assert list(farm.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        assert farm._driver.connection.servers.now.port != said["port"]
    wait_until(lambda: one.json("doctor", code=Exit.FAILED)["failed"] == ["servers"], "the others have settled")
    checks = one.json("doctor", code=Exit.FAILED)["checks"]
    assert f"{said['server']} is down" in next(check["detail"] for check in checks if check["name"] == "servers")
    with Farm(str(parse_join_line(said["join_line"]).address), output=False) as farm:
        assert (
            farm.submit(abs, -2).result(60) == 2
        )  # nobody is at that address; the others were kept from the last time
