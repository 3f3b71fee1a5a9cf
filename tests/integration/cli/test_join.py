"""Joining: who is let in, who is not and how soon that is said, and what happens when the process dies."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from collections.abc import Iterator

import pytest
from tests.integration.cli.conftest import Machine, wait_until

from farmhand import Farm
from farmhand.cli.exits import Exit

TOKEN = "A" * 32


@pytest.fixture(scope="module")
def open_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A farm that listens to other machines."""
    machine = Machine(tmp_path_factory.mktemp("open") / "a home")
    machine.up("--listen", "0.0.0.0")
    yield machine
    machine.end()


def line_of(machine: Machine) -> str:
    return str(machine.farm_file()["join_line"])


def address_of(line: str) -> str:
    scheme, _, rest = line.partition("://")
    return f"{scheme}://{rest.partition('@')[2].partition('?')[0]}"


def nodes(machine: Machine) -> dict[str, dict[str, object]]:
    return {node["name"]: node for node in machine.json("status")["nodes"]}


def refused(machine: Machine, line: str, *options: str) -> int:
    """The exit code, which must come within 5 s and the time that Python takes."""
    began = time.monotonic()
    done = machine.run("join", line, *options)
    assert time.monotonic() - began < 6.5
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("farmhand: ")
    assert TOKEN not in done.stderr
    return done.returncode


def test_joins_works_and_leaves(open_farm: Machine, other: Machine) -> None:
    line = line_of(open_farm)
    with other.start(
        "join", line, "--slots", "2", "--name", "barn", "--capability", "latex", "--capability", "gpu=2"
    ) as join:
        join.wait_line("as barn with 2 slots")
        barn = wait_until(lambda: nodes(open_farm).get("barn"), "the farm knows it")
        assert barn["capabilities"]["latex"] == ""
        assert barn["capabilities"]["gpu"] == "2"
        for path in [*other.home.rglob("*.nk"), *other.home.rglob("*.lock")]:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert join.end() == Exit.OK
    wait_until(lambda: "barn" not in nodes(open_farm), "the farm knows that it has left", 5.0)
    with other.start("join", address_of(line)) as again:  # the line is needed once
        again.wait_line("as barn with")
        wait_until(lambda: "barn" in nodes(open_farm), "it has come back")
        assert again.end(signal.SIGTERM) == Exit.OK
    assert not other.processes()


def test_a_node_within_the_command_itself(open_farm: Machine, other: Machine) -> None:
    line = line_of(open_farm)
    assert refused(other, line, "--in-process", "--slots", "2") == Exit.USAGE
    assert refused(other, line, "--in-process", "--capability", "mem=8GiB") == Exit.USAGE
    with other.start("join", line, "--in-process", "--name", "phone", "--capability", "camera") as join:
        join.wait_line("as phone with 1 slot in this process")
        phone = wait_until(lambda: nodes(open_farm).get("phone"), "the farm knows it")
        assert (phone["slots"], phone["pid"], phone["slot_pids"]) == (1, join.pid, [])
        assert [process.pid for process in other.processes()] == [join.pid]
        assert join.end(signal.SIGTERM) == Exit.OK
    assert join.said.endswith("Left the farm.\n")


def test_a_client_joins_with_the_line_too(open_farm: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARMHAND_HOME", str(other.home))
    with Farm(line_of(open_farm)) as farm:
        assert farm.submit(pow, 2, 10).result(30) == 1024
    with Farm(address_of(line_of(open_farm))) as farm:
        assert list(farm.map(abs, [-1, -2])) == [1, 2]


def test_two_on_one_machine_are_two_nodes(open_farm: Machine, other: Machine) -> None:
    line = line_of(open_farm)
    before = len(nodes(open_farm))
    with other.start("join", line, "--slots", "1") as one, other.start("join", line, "--slots", "1") as two:
        names = {up.wait_line("Working for").split(" as ")[1].split()[0] for up in (one, two)}
        assert len(names) == 2
        wait_until(lambda: len(nodes(open_farm)) == before + 2, "the farm knows both")
        taken = other.run("join", line, "--name", names.pop())
        assert taken.returncode == Exit.RUNNING
        assert one.end() == two.end() == Exit.OK


def test_a_wrong_pin_is_refused_before_the_token_is_shown(open_farm: Machine, other: Machine) -> None:
    line = line_of(open_farm)
    wrong = line[:-1] + ("0" if line[-1] != "0" else "1")
    assert refused(other, wrong) == Exit.WRONG_PIN
    assert not [path for path in other.home.rglob("*") if path.is_file()]


def test_a_wrong_token_is_refused(open_farm: Machine, other: Machine) -> None:
    scheme, _, rest = line_of(open_farm).partition("://")
    assert refused(other, f"{scheme}://{TOKEN}@{rest.partition('@')[2]}") == Exit.REFUSED


def test_an_address_without_a_line_is_refused_at_first(open_farm: Machine, other: Machine) -> None:
    assert refused(other, address_of(line_of(open_farm))) == Exit.REFUSED


def test_nobody_there(other: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        assert refused(other, f"nats://{TOKEN}@127.0.0.1:{silent.getsockname()[1]}") == Exit.UNREACHABLE
        port = silent.getsockname()[1]
    assert refused(other, f"nats://{TOKEN}@127.0.0.1:{port}") == Exit.UNREACHABLE


def test_an_engine_that_is_too_old(other: Machine) -> None:
    """What speaks here is a socket that says what an old server says first."""
    import threading

    server = socket.create_server(("127.0.0.1", 0))

    def speak() -> None:
        peer, _ = server.accept()
        with peer:
            peer.sendall(b'INFO {"version":"2.9.1","auth_required":true,"nonce":"x"}\r\n')
            peer.recv(4096)

    thread = threading.Thread(target=speak)
    thread.start()
    with server:
        assert refused(other, f"nats://{TOKEN}@127.0.0.1:{server.getsockname()[1]}") == Exit.VERSION
    thread.join()


@pytest.mark.parametrize(
    "line", ["", "http://x", "tls://10.0.0.1:4222", f"tls://{TOKEN}@10.0.0.1", f"nats://{TOKEN}@10.0.0.1:1"]
)
def test_a_line_that_cannot_be_right(other: Machine, line: str) -> None:
    assert refused(other, line) in {Exit.USAGE, Exit.REFUSED}


def test_the_agent_is_started_again_and_dies_with_its_keeper(open_farm: Machine, other: Machine) -> None:
    with other.start("join", line_of(open_farm), "--name", "stall", "--slots", "1") as join:
        join.wait_line("as stall")
        first = wait_until(lambda: nodes(open_farm).get("stall"), "the farm knows it")
        os.kill(int(str(first["pid"])), signal.SIGKILL)
        wait_until(lambda: nodes(open_farm).get("stall", first)["pid"] != first["pid"], "another agent has come")
        join.process.kill()
        wait_until(lambda: not other.processes(), "agent and slots have noticed", 5.0)


def test_who_has_joined_waits_for_the_farm_to_come_back(machine: Machine, other: Machine) -> None:
    machine.up()
    line = line_of(machine)
    with other.start("join", line, "--name", "patient", "--slots", "1") as join:
        join.wait_line("as patient")
        wait_until(lambda: "patient" in nodes(machine), "the farm knows it")
        machine.json("down")
        machine.up()
        wait_until(lambda: "patient" in nodes(machine), "it has come back by itself")
        assert join.end() == Exit.OK
    machine.json("down")
    with other.start("join", address_of(line), "--slots", "1") as join:  # nobody is there
        join.wait_line("as patient")
        machine.up()
        wait_until(lambda: "patient" in nodes(machine), "it has found the farm")
        assert join.end() == Exit.OK
