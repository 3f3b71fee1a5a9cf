"""The doctor finds what is broken: each part is broken on purpose, and only that part is named."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.integration.cli.conftest import Machine, wait_until

from farmhand.cli.exits import Exit
from farmhand.engine import streams
from farmhand.engine.connection import Connection
from farmhand.home.login import options
from farmhand.model.address import parse_address
from farmhand.security.permissions import Role

EVERY = [
    "server binary",
    "state folder",
    "credentials",
    "disk space",
    "environments",
    "supervisor",
    "engine",
    "login",
    "strangers refused",
    "servers",
    "streams",
    "steward",
    "versions",
    "nodes",
    "slots",
    "task",
    "large value",
    "logs",
]


def failed(machine: Machine, **environment: str) -> dict[str, Any]:
    """The failed checks by name; everything else is as it should be."""
    found = machine.json("doctor", code=Exit.FAILED, **environment)
    assert not found["ok"]
    return {check["name"]: check for check in found["checks"] if check["state"] == "failed"}


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


def healthy(machine: Machine) -> bool:
    return machine.run("doctor").returncode == Exit.OK


def test_all_is_well(farm: Machine) -> None:
    found = farm.json("doctor")
    assert found["ok"]
    assert [check["name"] for check in found["checks"]] == EVERY
    assert {check["state"] for check in found["checks"]} == {"ok"}
    done = farm.run("doctor")
    assert done.returncode == Exit.OK
    assert "Every part works." in done.stdout


def test_no_farm_at_all(machine: Machine) -> None:
    broken = failed(machine)
    assert list(broken) == ["supervisor"]
    assert "farmhand up" in broken["supervisor"]["advice"]


def test_wrong_server(farm: Machine, tmp_path: Path) -> None:
    fake = tmp_path / "server"
    fake.write_text("#!/bin/sh\necho hello\n")
    fake.chmod(0o755)
    assert list(failed(farm, FARMHAND_NATS_SERVER=str(fake))) == ["server binary"]


def test_folder_open_to_others(farm: Machine) -> None:
    with mode(farm.home / "farm" / "keys", 0o755):
        broken = failed(farm)
    assert list(broken) == ["state folder"]
    assert "chmod 700" in broken["state folder"]["advice"]


def test_key_that_others_can_read(farm: Machine) -> None:
    with mode(farm.home / "farm" / "keys" / "owner.nk", 0o644):
        broken = failed(farm)
    assert list(broken) == ["credentials"]
    assert "chmod 600" in broken["credentials"]["detail"]


def test_key_that_is_not_enrolled(farm: Machine) -> None:
    from farmhand.security.nkeys import KeyPair, store_seed

    key = farm.home / "farm" / "keys" / "owner.nk"
    before = key.read_bytes()
    store_seed(key, KeyPair.generate(), replace=True)
    try:
        assert list(failed(farm)) == ["login"]
    finally:
        key.write_bytes(before)


def test_engine_frozen(farm: Machine) -> None:
    with frozen(farm.farm_file()["engine_pid"]):
        broken = failed(farm)
    assert list(broken) == ["engine"]
    assert "is stopped" in broken["engine"]["detail"]
    wait_until(lambda: healthy(farm), "it has recovered")


def test_steward_frozen(farm: Machine) -> None:
    with frozen(farm.farm_file()["steward_pid"]):
        broken = failed(farm)
    assert list(broken) == ["steward"]
    assert "is stopped" in broken["steward"]["detail"]
    wait_until(lambda: healthy(farm), "it has recovered")


def test_node_frozen(farm: Machine) -> None:
    with frozen(farm.farm_file()["node_pids"][0]):
        broken = failed(farm)
    assert list(broken) == ["nodes"]
    assert "is stopped" in broken["nodes"]["detail"]
    wait_until(lambda: healthy(farm), "it has recovered")


def test_slot_frozen(farm: Machine) -> None:
    slot = farm.json("status")["nodes"][0]["slot_pids"][0]
    with frozen(slot):
        broken = failed(farm)
    assert list(broken) == ["slots"]
    assert str(slot) in broken["slots"]["detail"]
    wait_until(lambda: healthy(farm), "it has recovered")


def test_node_of_another_machine_frozen(farm: Machine, other: Machine) -> None:
    """Nothing is known of its process from here; its silence tells."""
    with other.start("join", farm.farm_file()["join_line"], "--name", "far", "--slots", "1") as join:
        join.wait_line("as far")
        node = wait_until(
            lambda: next((n for n in farm.json("status")["nodes"] if n["name"] == "far"), None), "it has joined"
        )
        with frozen(node["pid"]):
            wait_until(lambda: "far" in failed_nodes(farm), "its silence is noticed", 10.0)
        assert join.end() == Exit.OK


def failed_nodes(machine: Machine) -> str:
    found = machine.run("doctor").stdout
    return next((line for line in found.splitlines() if "FAILED  nodes" in line or "FAILED  slots" in line), "")


def test_no_node(machine: Machine) -> None:
    machine.json("up", "--detach", "--nodes", "0")
    broken = failed(machine)
    assert list(broken) == ["nodes"]
    assert "farmhand join" in broken["nodes"]["advice"]


def test_stream_lost(machine: Machine) -> None:
    machine.up()
    asyncio.run(_delete_stream(machine))
    broken = failed(machine)
    assert list(broken) == ["streams"]
    assert "stream not found" in broken["streams"]["detail"]


async def _delete_stream(machine: Machine) -> None:
    key = machine.home / "farm" / "keys" / "steward.nk"
    connection = await Connection.open(
        options(parse_address(machine.farm_file()["address"]), key, Role.STEWARD, "steward")
    )
    await streams.call(connection, "STREAM.DELETE.BLOB")
    await connection.close()


def test_supervisor_killed(machine: Machine) -> None:
    os.kill(machine.up()["pid"], signal.SIGKILL)
    assert list(failed(machine)) == ["supervisor"]


def test_traceback_in_a_log(machine: Machine) -> None:
    machine.up()
    log = machine.home / "farm" / "logs" / "steward.log"
    old = "2020-01-01 00:00:00,000 ERROR x: y\nTraceback (most recent call last):\n  File x\nKeyError: 'old'\n"
    log.write_text(old + log.read_text())
    assert healthy(machine)  # that was in an earlier life
    with log.open("a") as file:
        file.write(
            "2099-01-01 00:00:00,000 ERROR x: y\nTraceback (most recent call last):\n  File x\nKeyError: 'barn'\n"
        )
    broken = failed(machine)
    assert list(broken) == ["logs"]
    assert "KeyError: 'barn'" in broken["logs"]["detail"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not psutil.LINUX, reason="needs root to mount a file system"
)
def test_disk_nearly_full(tmp_path: Path) -> None:
    home = tmp_path / "a small disk"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(home)], check=True)
    machine = Machine(home)
    try:
        machine.up()
        assert list(failed(machine)) == ["disk space"]
    finally:
        machine.end()
        subprocess.run(["umount", str(home)], check=True)


def test_from_another_machine(farm: Machine, other: Machine) -> None:
    found = other.json("doctor", "--farm", farm.farm_file()["join_line"])
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert states["task"] == states["large value"] == "ok"
    assert states["server binary"] == states["logs"] == "skipped"


def test_a_farm_that_is_not_there(other: Machine) -> None:
    found = other.json("doctor", "--farm", "nats://127.0.0.1:9", code=Exit.FAILED)
    assert "engine" in found["failed"]
