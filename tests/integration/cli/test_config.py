"""`farmhand config` says where a value is from, and `up` and `join` do what it says."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.integration.cli.conftest import Machine

from farmhand.cli.exits import Exit


@pytest.fixture
def project(tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a project of a user who has settings."""
    folder = tmp_path / "a project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    machine.home.mkdir()
    return folder


def rows(machine: Machine, **environment: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in machine.json("config", **environment)["settings"]}


def test_each_value_and_where_it_came_from(machine: Machine, project: Path) -> None:
    (machine.home / "config.toml").write_text('durability = "power"\ngrace = 4\n')
    (project / "pyproject.toml").write_text("[tool.farmhand]\nslots = 3\ngrace = 5\n")
    found = rows(machine, FARMHAND_CAPABILITIES="latex,gpu=2")
    assert {name: (row["value"], row["source"], row["place"]) for name, row in found.items() if row["place"]} == {
        "slots": (3, "project", f"{project / 'pyproject.toml'}:2"),
        "grace": (5.0, "project", f"{project / 'pyproject.toml'}:3"),
        "durability": ("power", "user", f"{machine.home / 'config.toml'}:1"),
        "capabilities": (["latex", "gpu=2"], "variable", "$FARMHAND_CAPABILITIES"),
    }
    assert found["listen"]["source"] == "default"
    text = machine.run("config").stdout
    assert f"slots               3          {project / 'pyproject.toml'}:2" in text
    assert "listen              127.0.0.1  default" in text


def test_what_a_command_would_have_with_its_options(machine: Machine, project: Path) -> None:
    (project / "farmhand.toml").write_text("slots = 3\ngrace = 5\n")
    done = machine.run("config", "--json", "up", "--slots", "4", "-v")
    found = {row["name"]: (row["value"], row["place"]) for row in json.loads(done.stdout)["settings"]}
    assert found["slots"] == (4, "--slots")
    assert found["log_level"] == ("debug", "--log-level")
    assert found["grace"] == (5.0, f"{project / 'farmhand.toml'}:2")
    assert "farm" not in found
    assert "--grace" in machine.run("config", "join", "--grace", "1").stdout
    assert machine.run("config", "down").returncode == machine.run("config", "dwon").returncode == Exit.USAGE
    assert not machine.processes()


def test_the_files(machine: Machine, project: Path) -> None:
    files = machine.json("config", "--file")
    assert files == {
        "user": str(machine.home / "config.toml"), "project": None, "farms": str(machine.home / "farms.toml")
    }  # fmt: skip
    (project / "farmhand.toml").touch()
    assert machine.json("config")["files"]["project"] == str(project / "farmhand.toml")
    assert f"user     {machine.home / 'config.toml'} (not there)" in machine.run("config", "--file").stdout


def test_a_join_line_in_the_variable_is_not_shown(machine: Machine) -> None:
    secret = "tls://SECRETSECRETSECRET@10.0.0.1:4222?pin=sha256:" + "0" * 64
    done = machine.run("config", FARMHAND_FARM=secret)
    assert "10.0.0.1" in done.stdout
    assert "SECRET" not in done.stdout + done.stderr


def test_up_does_what_is_settled_and_an_option_goes_first(machine: Machine, project: Path) -> None:
    (machine.home / "config.toml").write_text('capabilities = ["latex"]\nnodes = 2\n')
    (project / "farmhand.toml").write_text("slots = 2\n")
    said = machine.json("up", "--detach")
    assert (said["nodes"], said["slots"]) == (2, 2)
    assert "latex" in machine.json("status")["nodes"][0]["capabilities"]
    machine.json("down")
    assert machine.json("up", "--detach", "--slots", "3", "--nodes", "1")["slots"] == 3


def test_join_does_what_is_settled(farm: Machine, machine: Machine, project: Path) -> None:
    (project / "farmhand.toml").write_text("slots = 2\n")
    with machine.start("join", farm.farm_file()["join_line"], "--name", "far") as join:
        join.wait_line("as far with 2 slots")
        assert join.end() == Exit.OK


def test_a_slip_ends_the_command_with_its_place(machine: Machine, project: Path) -> None:
    (project / "farmhand.toml").write_text("\nslotz = 2\n")
    for command in (["up"], ["status"], ["doctor"], ["config"]):
        done = machine.run(*command)
        assert done.returncode == Exit.USAGE
        assert (
            done.stderr
            == f"farmhand: {project / 'farmhand.toml'}:2: there is no setting 'slotz'; did you mean 'slots'?\n"
        )
    assert machine.json("config", code=Exit.USAGE)["kind"] == "BadOption"
    for command in (["down"], ["use", "--list"], ["config", "--file"], ["up", "--help"]):
        assert machine.run(*command).returncode == Exit.OK


def test_a_project_cannot_open_the_machine(machine: Machine, project: Path) -> None:
    (project / "farmhand.toml").write_text('listen = "0.0.0.0"\n')
    done = machine.run("up", "--detach")
    assert done.returncode == Exit.USAGE
    assert "listen cannot be set by a project" in done.stderr
    assert not machine.processes()


def test_too_many_nodes_for_the_slots_says_where_that_stands(machine: Machine, project: Path) -> None:
    (project / "farmhand.toml").write_text("slots = 2\n")
    done = machine.run("up", "--nodes", "3")
    assert done.returncode == Exit.USAGE
    assert f"--slots 2 (from {project / 'farmhand.toml'}:1)" in done.stderr


def test_the_server_of_the_users_file_is_the_one_that_is_run(machine: Machine, project: Path) -> None:
    fake = project / "old server"
    fake.write_text("#!/bin/sh\necho nats-server: v2.9.1\n")
    fake.chmod(0o755)
    (machine.home / "config.toml").write_text(f"nats_server = '{fake}'\n")
    assert machine.json("up", "--detach", code=Exit.VERSION)["kind"] == "ServerTooOld"
    assert "server binary" in machine.json("doctor", code=Exit.FAILED)["failed"]


def test_every_option_that_is_settled_reaches_the_detached_farm(machine: Machine, project: Path) -> None:
    """It is the same command once more, in the same folder: what is settled there must not come twice."""
    (machine.home / "config.toml").write_text("grace = 3\n")
    machine.up("--grace", "1", "--capability", "latex")
    node = next(process for process in machine.processes() if "farmhand.node" in process.cmdline())
    words = node.cmdline()
    assert words[words.index("--grace") + 1] == "1.0"
    assert words.count("--capability") == 1


def test_commands_that_need_no_settings_work_without_a_current_folder(machine: Machine, project: Path) -> None:
    gone = project / "gone"
    gone.mkdir()
    script = f"cd '{gone}' && rmdir '{gone}' && exec \"$@\""
    done = subprocess.run(
        ["sh", "-c", script, "sh", *machine.command("config")],
        env=machine.environment | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.OK, done.stderr
