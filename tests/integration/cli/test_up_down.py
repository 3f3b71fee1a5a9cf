"""Starting and ending a farm, and that it is never open by accident."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import psutil
import pytest
from tests.integration.cli.conftest import Machine, wait_until

from farmhand.cli.exits import Exit


def listening(pid: int) -> set[str]:
    return {c.laddr.ip for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN}


def test_detached_farm_is_ready_listens_on_loopback_only_and_ends(machine: Machine) -> None:
    said = machine.up()
    assert said["ready"]
    assert said["folder"] == str(machine.home / "farm")
    assert said["address"] == f"nats://127.0.0.1:{said['port']}"
    for pid in [said["engine_pid"], said["steward_pid"], *said["node_pids"], said["pid"]]:
        assert listening(pid) <= {"127.0.0.1"}
    assert listening(said["engine_pid"]) == {"127.0.0.1"}
    assert machine.json("down") == {"stopped": True, "pid": said["pid"], "killed": False}
    assert machine.json("down") == {"stopped": False, "pid": None, "killed": False}
    assert not machine.processes()


def test_every_file_is_for_its_owner_only(farm: Machine) -> None:
    root = farm.home / "farm"
    secrets = [*root.glob("keys/*"), root / "users.json", root / "users.conf", root / "farm.json", root / "host.lock"]
    assert len(secrets) > 6
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in [root, *(path for path in root.iterdir() if path.is_dir())]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_a_second_up_is_refused_and_names_the_first(farm: Machine) -> None:
    pid = farm.farm_file()["pid"]
    for arguments in (["up"], ["up", "--detach"]):
        done = farm.run(*arguments)
        assert done.returncode == Exit.RUNNING
        assert f"process {pid}" in done.stderr
    assert farm.json("up", code=Exit.RUNNING)["kind"] == "FarmRunning"


def test_of_two_that_start_at_once_one_wins(machine: Machine) -> None:
    ups = [machine.start("up", "--slots", "1", "--json") for _ in range(3)]
    refused = 0
    for up in ups:
        with up:
            assert up.process.stdout is not None
            line = up.process.stdout.readline()
            if "FarmRunning" in line:
                refused += 1
                assert up.wait() == Exit.RUNNING
            else:
                winner = up
                assert '"ready": true' in line
                others_refused = wait_until(
                    lambda: sum(u.process.poll() == Exit.RUNNING for u in ups) == 2, "the others end"
                )
                assert others_refused
                assert winner.end() == Exit.OK


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_foreground_in_good_order(machine: Machine, number: int) -> None:
    with machine.start("up", "--slots", "1") as up:
        up.wait_line("join line")
        assert up.end(number) == Exit.OK
    assert not machine.processes()


def test_kill_of_the_supervisor_leaves_nothing_behind(machine: Machine) -> None:
    said = machine.up()
    os.kill(said["pid"], signal.SIGKILL)
    wait_until(lambda: not machine.processes(), "its parts have noticed", 5.0)
    again = machine.up()
    assert again["port"] == said["port"]


def test_the_port_is_kept_for_the_next_start_and_refused_when_another_has_it(machine: Machine) -> None:
    first = machine.up()
    machine.json("down")
    assert machine.up()["port"] == first["port"]
    machine.json("down")
    with socket.create_server(("127.0.0.1", first["port"])):
        error = machine.json("up", "--detach", code=Exit.START_FAILED)
        assert error["kind"] == "PortInUse"
        assert "--port" in error["error"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert machine.up("--port", str(port))["port"] == port


def test_two_farms_at_once(machine: Machine, other: Machine) -> None:
    one, two = machine.up(), other.up("--nodes", "2", "--slots", "2")
    assert one["port"] != two["port"]
    assert len(machine.json("status")["nodes"]) == 1
    assert len(other.json("status")["nodes"]) == 2
    assert machine.json("status", "--farm", two["address"], code=Exit.REFUSED)["kind"] == "CredentialMissing"
    machine.json("down")
    assert len(other.json("status")["nodes"]) == 2


def test_off_loopback_it_speaks_tls_and_the_join_line_has_the_pin(machine: Machine) -> None:
    said = machine.up("--listen", "0.0.0.0")
    assert said["tls"]
    assert said["address"].startswith("tls://")
    assert "?pin=sha256:" in said["join_line"]
    assert "127.0.0.1" not in said["join_line"]
    with socket.create_connection(("127.0.0.1", said["port"]), 5) as sock:
        assert b'"tls_required":true' in sock.recv(4096)
    assert machine.json("doctor")["ok"]


def test_plain_text_off_loopback_needs_its_option_and_warns_each_time(machine: Machine, other: Machine) -> None:
    for _ in range(2):
        said = machine.up("--listen", "0.0.0.0", "--insecure-plaintext")
        assert not said["tls"]
        assert "PLAIN TEXT" in said["warnings"][0]
        assert "insecure=plaintext" in said["join_line"]
        bare = said["join_line"].partition("?")[0]
        assert other.run("join", bare).returncode == Exit.REFUSED
        machine.json("down")
    done = machine.run("up", "--detach", "--slots", "1", "--listen", "0.0.0.0", "--insecure-plaintext")
    assert "PLAIN TEXT" in done.stderr


def test_options_that_cannot_be_right(machine: Machine) -> None:
    assert machine.run("up", "--port", "0").returncode == Exit.USAGE
    assert machine.run("up", "--nodes", "3", "--slots", "2").returncode == Exit.USAGE
    assert machine.run("up", "--capability", "=x").returncode == Exit.USAGE
    assert not (machine.home / "farm" / "keys").exists()


def test_a_server_that_will_not_do(machine: Machine, tmp_path: Path) -> None:
    fake = tmp_path / "old server"
    fake.write_text("#!/bin/sh\necho nats-server: v2.9.1\n")
    fake.chmod(0o755)
    assert machine.json("up", "--detach", code=Exit.VERSION, FARMHAND_NATS_SERVER=str(fake))["kind"] == "ServerTooOld"
    assert machine.json("up", code=Exit.START_FAILED, FARMHAND_NATS_SERVER="nowhere")["kind"] == "ServerNotFound"


def test_a_farm_without_a_node_of_its_own(machine: Machine) -> None:
    said = machine.json("up", "--detach", "--nodes", "0")
    assert said["node_pids"] == []
    assert machine.json("status")["nodes"] == []


def test_the_farm_outlives_the_terminal_that_started_it(machine: Machine) -> None:
    """A session of its own: the hang-up of the terminal's process group does not reach it."""
    process = subprocess.Popen(
        machine.command("up", "--detach", "--slots", "1", "--json"),
        env=machine.environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    process.communicate(timeout=60)
    pid = machine.farm_file()["pid"]
    assert os.getsid(pid) != process.pid
    assert len(machine.json("status")["nodes"]) == 1
