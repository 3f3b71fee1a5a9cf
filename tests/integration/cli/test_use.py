"""Habits that are settled once: a farm's name stands for it in every command and in a program."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.cli.conftest import Machine, wait_until

from farmhand import Farm, errors
from farmhand.cli.exits import Exit


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A farm off loopback: its join line has a token and a pin."""
    machine = Machine(tmp_path_factory.mktemp("lab") / "a home")
    machine.up("--listen", "0.0.0.0")
    yield machine
    machine.end()


def line_of(machine: Machine) -> str:
    return str(machine.farm_file()["join_line"])


def token_of(line: str) -> str:
    return line.partition("://")[2].partition("@")[0]


def test_a_join_line_is_enrolled_at_once_and_only_the_address_is_saved(
    lab: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = line_of(lab)
    said = other.json("use", "lab", line)
    assert said["default"] == ""
    assert token_of(line) not in said["farms"]["lab"]
    file = other.home / "farms.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token_of(line) not in file.read_text()
    assert other.json("status", "--farm", "lab")["address"] == said["farms"]["lab"]
    assert other.json("status", FARMHAND_FARM="lab")["address"] == said["farms"]["lab"]
    assert other.json("doctor", "--farm", "lab")["ok"]
    monkeypatch.setenv("FARMHAND_HOME", str(other.home))
    with Farm("lab") as farm:
        assert farm.submit(pow, 2, 10).result(30) == 1024
    with other.start("join", line, "--name", "far", "--slots", "1") as first:
        first.wait_line("as far")
        assert first.end() == Exit.OK
    with other.start("join", "lab", "--slots", "1") as again:
        again.wait_line("as far with 1 slots")
        assert again.end() == Exit.OK


def test_the_default_farm(lab: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    address = other.json("use", "lab", line_of(lab))["farms"]["lab"]
    assert other.json("status", code=Exit.NOT_RUNNING)["kind"] == "FarmNotRunning"
    assert other.run("use", "lab").stdout == "lab is the default farm.\n"
    assert other.json("status")["address"] == address
    assert other.json("doctor")["ok"]
    assert f"* lab  {address}" in other.run("use", "--list").stdout
    monkeypatch.setenv("FARMHAND_HOME", str(other.home))
    with Farm() as farm:
        assert address in repr(farm)
    warned = other.run("use", "lab", FARMHAND_FARM="nats://127.0.0.1:9")
    assert "$FARMHAND_FARM says otherwise" in warned.stderr
    assert other.json("use", "--no-default")["default"] == ""
    assert other.run("status").returncode == Exit.NOT_RUNNING


def test_removing(lab: Machine, other: Machine) -> None:
    other.json("use", "lab", line_of(lab))
    other.json("use", "lab")
    assert other.json("use", "lab", "--remove") == {"default": "", "farms": {}}
    assert "No farm is saved" in other.run("use").stdout
    assert list((other.home / "known").rglob("client-*.nk"))


def test_ones_own_farm_has_a_name_too(farm: Machine) -> None:
    address = farm.farm_file()["address"]
    assert farm.json("use", "home", address)["farms"] == {"home": address}
    assert farm.json("status", "--farm", "home")["address"] == address


def test_ones_own_farm_as_the_default_is_looked_at_as_ones_own_when_it_is_down(machine: Machine) -> None:
    machine.json("use", "home", machine.up()["address"])
    machine.json("use", "home")
    machine.json("down")
    assert machine.json("doctor", code=Exit.FAILED)["failed"] == ["supervisor"]
    assert machine.json("doctor", code=Exit.FAILED, FARMHAND_FARM="home")["failed"] == ["supervisor"]
    assert "start it with `farmhand up`" in machine.json("status", code=Exit.NOT_RUNNING)["error"]


def test_what_cannot_be_saved(other: Machine) -> None:
    unknown = other.json("use", "lab", "nats://127.0.0.1:9", code=Exit.REFUSED)
    assert unknown["kind"] == "CredentialMissing"
    wrong = other.run("use", "tls://SECRETSECRETSECRET@h:1?pin=x", "lab")
    assert wrong.returncode == Exit.USAGE
    assert "SECRET" not in wrong.stderr + wrong.stdout
    for arguments in (["a", "nats://h:1", "--remove"], ["--remove"], ["a", "--list"], ["--list", "--no-default"]):
        assert other.run("use", *arguments).returncode == Exit.USAGE, arguments
    assert not (other.home / "farms.toml").exists()


def test_an_unknown_name_lists_those_that_are_saved(
    lab: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.json("use", "lab", line_of(lab))
    for arguments in (["status", "--farm", "lap"], ["doctor", "--farm", "lap"], ["join", "lap"], ["use", "lap"]):
        done = other.run(*arguments)
        assert done.returncode == Exit.USAGE
        assert "saved are lab. Did you mean 'lab'?" in done.stderr
    monkeypatch.setenv("FARMHAND_HOME", str(other.home))
    with pytest.raises(errors.BadAddress, match="saved are lab"):
        Farm("lap")


def test_the_shell_completes_names(lab: Machine, other: Machine) -> None:
    other.json("use", "lab", line_of(lab))
    for words in ("farmhand status --farm la", "farmhand use l", "farmhand join "):
        asked = {"_FARMHAND_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        assert other.run(**asked).stdout == "plain,lab\n"


CRASH = """
import sys, threading
if "farmhand.steward" in sys.orig_argv:
    import farmhand.home.logs as logs
    start = logs.start_logging
    def start_and_crash(*arguments):
        start(*arguments)
        crash = threading.Thread(target=lambda: {}["hay"], name="straw")
        crash.start()
        crash.join()
    logs.start_logging = start_and_crash
"""


def test_a_crash_is_in_the_log_and_the_doctor_points_to_it(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "sitecustomize.py").write_text(CRASH)
    machine.up(PYTHONPATH=str(tmp_path / "crash"))
    found = machine.json("doctor", code=Exit.FAILED)
    assert found["failed"] == ["logs"]
    check = found["checks"][-1]
    assert str(machine.home / "farm" / "logs" / "steward.log") in check["detail"]
    assert "KeyError: 'hay'" in check["detail"]


def test_a_crash_of_a_joined_node_is_found_on_its_machine(lab: Machine, other: Machine) -> None:
    with other.start("join", line_of(lab), "--name", "straw", "--slots", "1") as join:
        join.wait_line("as straw")
        other.json("use", "lab", line_of(lab))
        checks = {check["name"]: check for check in other.json("doctor", "--farm", "lab")["checks"]}
        assert checks["logs"]["state"] == "ok"
        [log] = wait_until(lambda: list(other.home.glob("known/*/node-straw.log")), "the agent has started")
        with log.open("a") as file:
            file.write("2099-01-01 00:00:00,000 ERROR x: y\nTraceback (most recent call last):\nKeyError: 'barn'\n")
        found = other.json("doctor", "--farm", "lab", code=Exit.FAILED)
        assert found["failed"] == ["logs"]
        assert str(log) in found["checks"][-1]["detail"]
        assert join.end() == Exit.OK


def test_the_log_level_reaches_every_process(machine: Machine) -> None:
    machine.up("--log-level", "warning")
    assert levels(machine) == {"steward": "warning", "node": "warning"}
    machine.json("down")
    (machine.home / "config.toml").write_text('log_level = "error"\n')
    machine.up()
    assert levels(machine) == {"steward": "error", "node": "error"}
    machine.json("down")
    machine.up("-v")
    assert levels(machine) == {"steward": "debug", "node": "debug"}


def test_join_hands_the_level_on_and_has_a_log_of_its_own(lab: Machine, other: Machine) -> None:
    with other.start("join", line_of(lab), "-v", "--name", "oats", "--slots", "1") as join:
        join.wait_line("as oats")
        wait_until(lambda: levels(other) == {"node": "debug"}, "the agent runs")
        assert list(other.home.glob("known/*/keeper-oats.log"))
        assert join.end() == Exit.OK


def levels(machine: Machine) -> dict[str, str]:
    """What each process of ours was told."""
    found = {}
    for process in machine.processes():
        words = process.cmdline()
        if "--log-level" in words and words[0] == sys.executable and "-m" in words:
            kind = words[words.index("-m") + 1].rpartition(".")[2]
            if kind != "cli":
                found[kind] = words[words.index("--log-level") + 1]
    return found
