"""AntPool's users: its constructor, its three kinds of state, its commands, its demos."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.integration.cli.conftest import Machine, Running, wait_until
from tests.integration.executor.meeting import Meeting, arrive

from farmhand import Farm, errors
from farmhand.antpool import AntPoolExecutor
from farmhand.antpool.executor import state_of

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60.0
BIN = Path(sys.executable).parent

calls = 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


class AntPool(Machine):
    """A machine with AntPool's commands."""

    def server(self, *arguments: str) -> Running:
        return Running([str(BIN / "antpoolsrv"), *arguments], self.environment)

    def client(self, *arguments: str) -> Running:
        return Running([str(BIN / "antpoolclient"), *arguments], self.environment)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[AntPool]:
    """With `antpoolsrv` running on two slots."""
    machine = AntPool(tmp_path_factory.mktemp("ant pool"))
    machine.environment["FARMHAND_SLOTS"] = "2"
    with machine.server(str(port)) as server:
        server.wait_line("join line")
        yield machine
    machine.end()


@pytest.fixture
def url(machine: AntPool, port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FARMHAND_HOME", str(machine.home))
    return f"ws://127.0.0.1:{port}"


def count(place: str) -> int:
    """How often it ran where it runs. Two at a time meet, so that both slots take their turn."""
    global calls
    calls += 1
    arrive(place)
    return calls


def counted(url: str, rtype: int, rounds: int, user: str) -> list[int]:
    """What each of so many rounds on both slots gives."""
    with AntPoolExecutor(url, rtype=rtype, user=user) as pool, Meeting() as meeting:
        found = []
        for _ in range(rounds):
            futures = [pool.submit(count, meeting.place) for _ in range(2)]
            for visitor in [meeting.wait(), meeting.wait()]:
                visitor.release()
            found += [future.result(PATIENCE_S) for future in futures]
        return found


def test_the_three_kinds_of_state(url: str) -> None:
    assert counted(url, 0, 2, "ann") == [1, 1, 1, 1]
    assert counted(url, 1, 2, "ann") == [2, 2, 1, 1]
    assert counted(url, 2, 3, "ann") == [1, 1, 2, 2, 3, 3]
    assert counted(url, 2, 1, "ben") == [1, 1], "another user's globals"
    assert counted(url, 2, 1, "ann") == [4, 4]


def test_it_is_an_executor_with_errors_as_they_were(url: str) -> None:
    with AntPoolExecutor(url, 8, 0, "user", "pwd") as pool:
        assert list(pool.map(pow, [2, 3], [4, 2])) == [16, 9]
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result(PATIENCE_S)
    with AntPoolExecutor(url.removeprefix("ws://")) as pool:
        assert pool.submit(abs, -1).result(PATIENCE_S) == 1


@pytest.mark.parametrize("rtype", [3, -1, "0", None, True])
def test_a_wrong_rtype_is_named(rtype: object) -> None:
    with pytest.raises(errors.BadOption, match=r"rtype=.*: 0, 1 or 2"):
        state_of(rtype, "user")


def test_a_credential_from_the_password(
    machine: AntPool, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = machine.farm_file()["join_line"].partition("://")[2].partition("@")[0]
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(errors.CredentialMissing):
        AntPoolExecutor(url)  # AntPool's default password opens nothing
    with AntPoolExecutor(url, user="ann", pwd=token) as pool:
        assert pool.submit(abs, -2).result(PATIENCE_S) == 2
    with AntPoolExecutor(url) as pool:  # this machine is known by now
        assert pool.submit(abs, -3).result(PATIENCE_S) == 3


def test_the_client_lends_one_core(machine: AntPool, url: str) -> None:
    with machine.client(url) as client:
        client.wait_line("Working for")
        nodes = wait_until(lambda: (n := machine.json("status")["nodes"]) and len(n) == 2 and n, "the node")
        assert sorted(node["slots"] for node in nodes) == [1, 2]
        client.process.send_signal(signal.SIGINT)
        client.wait_line("Left the farm")


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("antpoolsrv", ["/x"], "'/x' is neither a port nor /s nor /v"),
        ("antpoolclient", ["a", "b"], "one address, not 2"),
    ],
)
def test_what_the_commands_do_not_know(machine: AntPool, command: str, arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [BIN / command, *arguments], env=machine.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert says in done.stderr
    shown = subprocess.run([BIN / command, "/?"], env=machine.environment, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"usage: {command}")


def example(name: str, *arguments: str, home: Path) -> str:
    environment = {**os.environ, "FARMHAND_HOME": str(home)}
    done = subprocess.run([sys.executable, ROOT / "examples" / name, *arguments], env=environment, capture_output=True,
                          text=True, check=False, timeout=PATIENCE_S)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo_of_sums(machine: AntPool, url: str) -> None:
    lines = example("antpool_sum.py", "1000003", url, home=machine.home).splitlines()
    assert [line.split()[:2] for line in lines] == [
        [way, str(sum(range(1000003)))] for way in ("by_submit", "by_callback", "by_map")
    ]


def test_the_demo_of_pictures(machine: AntPool, url: str) -> None:
    lines = example("antpool_pictures.py", "4", url, home=machine.home).splitlines()
    assert [line.split()[0] for line in lines] == ["threads", "processes", "farm"]
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import antpool_pictures
    finally:
        sys.path.pop(0)
    with Farm(url) as farm:
        size, data = farm.submit(antpool_pictures.draw, 512, 400).result(PATIENCE_S)
    assert size == len(data)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (512, 400))
