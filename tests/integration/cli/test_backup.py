"""`farmhand backup` and `farmhand restore`: a farm is lost with its machine, and goes on from a file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.cli.conftest import Machine, Running, wait_until

from farmhand import Farm, errors
from farmhand.cli.exits import Exit
from farmhand.engine import streams
from farmhand.engine.broker import Broker, BrokerConfig
from farmhand.engine.connection import Connection
from farmhand.engine.ordered import OrderedReader
from farmhand.home import archive, backup
from farmhand.home.login import options
from farmhand.home.paths import FarmFolder
from farmhand.home.process import run_loop
from farmhand.model import messages
from farmhand.model.address import parse_address
from farmhand.security.permissions import Role

CLIENT = """
import sys, time
from pathlib import Path
from farmhand import Farm, errors

LARGE = bytes(range(256)) * 100_000  # many chunks of a snapshot

def mark(number, tally, gate):
    with open(tally, "a") as file:
        file.write(f"{number}\\n")
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    return LARGE if number == 1 else number

def short(result):
    return 1 if result == LARGE else result

if __name__ == "__main__":
    address, tally, gate, count = sys.argv[1:]
    with Farm(address, shared_memory=False) as farm:
        first = farm.submit(mark, 0, tally, "")
        print("first", first.result(), flush=True)
        futures = [farm.submit(mark, number, tally, gate) for number in range(1, int(count))]
        outcomes = []
        for future in futures:
            future.add_done_callback(lambda future: outcomes.append(short(future.result())))
        print("submitted", flush=True)
        print("results", [short(future.result()) for future in futures], flush=True)
    print("outcomes", sorted(outcomes), flush=True)
"""


@pytest.fixture
def start_client(machine: Machine, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    program = tmp_path / "client.py"
    program.write_text(textwrap.dedent(CLIENT))
    started: list[Running] = []

    def start(gate: str, count: int) -> Running:
        arguments = [machine.farm_file()["address"], str(tmp_path / "tally"), gate, str(count)]
        started.append(Running([sys.executable, str(program), *arguments], machine.environment))
        return started[-1]

    yield start
    for client in started:
        if client.process.poll() is None:
            client.process.kill()
        client.process.communicate()


def tallied(tmp_path: Path) -> Counter[int]:
    path = tmp_path / "tally"
    return Counter(int(line) for line in path.read_text().split()) if path.exists() else Counter()


def lose(machine: Machine) -> None:
    """The machine burns down: the processes die at once and the farm's folder is gone."""
    pids = machine.farm_file()
    for pid in (pids["pid"], pids["engine_pid"], pids["steward_pid"], *pids["node_pids"]):
        os.kill(pid, signal.SIGKILL)
    own = {str(pids[key]) for key in ("pid", "engine_pid", "steward_pid")}
    wait_until(lambda: not own & {str(process.pid) for process in machine.processes()}, "its processes are dead")
    shutil.rmtree(machine.home / "farm")


def test_results_that_were_not_read_are_delivered(
    machine: Machine, start_client: Callable[..., Running], tmp_path: Path
) -> None:
    """The client is frozen while its tasks end. None of them runs again."""
    machine.up()
    gate = tmp_path / "gate"
    client = start_client(str(gate), 4)
    wait_until(lambda: 1 in tallied(tmp_path), "a task runs")
    client.process.send_signal(signal.SIGSTOP)
    gate.touch()
    wait_until(lambda: not machine.json("status")["engine"]["storage"]["work"]["messages"], "what was sent is done")
    saved = machine.json("backup", str(tmp_path / "file"))
    assert saved["streams"]["RESULT"]["messages"] > 0
    lose(machine)
    restored = machine.json("restore", str(tmp_path / "file"))
    assert restored["streams"] == saved["streams"]
    client.process.send_signal(signal.SIGCONT)
    machine.up()
    assert client.wait() == 0, client.said
    assert "results [1, 2, 3]" in client.said
    assert "outcomes [1, 2, 3]" in client.said
    assert tallied(tmp_path) == Counter({0: 1, 1: 1, 2: 1, 3: 1})


def test_queued_work_runs_on_nodes_that_had_joined(
    machine: Machine, other: Machine, start_client: Callable[..., Running], tmp_path: Path
) -> None:
    """The node and the client are elsewhere, live on, and come back with the credentials that they have."""
    ready = machine.up("--nodes", "0")
    gate = tmp_path / "gate"
    with other.start("join", ready["join_line"], "--slots", "1", "--name", "shed") as node:
        node.wait_line("shed")
        client = start_client(str(gate), 8)
        client.wait_line("submitted")
        wait_until(lambda: 1 in tallied(tmp_path), "a task runs")
        machine.json("backup", str(tmp_path / "file"))
        lose(machine)
        machine.json("restore", str(tmp_path / "file"))
        again = machine.up("--nodes", "0")
        assert again["address"] == ready["address"]
        gate.touch()
        assert client.wait() == 0, client.said
        assert f"results {list(range(1, 8))}" in client.said
        assert f"outcomes {list(range(1, 8))}" in client.said
        assert set(tallied(tmp_path)) == set(range(8))
        assert [found["name"] for found in machine.json("status")["nodes"]] == ["shed"]
        node.end()


def same(number: int) -> int:
    return number


def tokens_in(folder: FarmFolder) -> tuple[set[int], set[int]]:
    """The attempts that are queued and those that are reported, in the stores of a farm that does not run."""
    work: set[int] = set()
    reported: set[int] = set()
    config = BrokerConfig(
        folder=folder.engine, store_dir=folder.engine / "store", users_conf=folder.root / "users.conf"
    )

    async def read(address: str) -> None:
        login = options(parse_address(address), folder.key("steward"), Role.STEWARD, "steward")
        connection = await Connection.open(login)
        at = 1
        while message := await streams.message_at(connection, "WORK", at, "work.>"):
            work.add(messages.read_work(messages.split(message.data)[0]).token)
            at = message.sequence + 1
        reader = OrderedReader(
            connection,
            "RESULT",
            "res.>",
            lambda _s, _n, d: reported.add(messages.read_report(messages.split(d)[0]).token),
        )
        await reader.start()
        state = await streams.stream_state(connection, "RESULT")
        while reader.last < state["last_seq"] and state["messages"]:
            await connection.flush()
        reader.close()
        await connection.close()

    with Broker(config) as broker:
        run_loop(read(broker.address))
    return work, reported


def test_what_was_acknowledged_before_is_in_it_and_the_settings_of_the_home(
    machine: Machine, other: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 small tasks go on meanwhile, and are not disturbed."""
    machine.home.mkdir(parents=True)
    (machine.home / "config.toml").write_text("slots = 1\n")
    ready = machine.up()
    monkeypatch.setenv("FARMHAND_HOME", str(machine.home))
    with Farm(ready["address"], output=False) as farm:
        results = farm.map(same, range(20_000))
        core = farm._driver.core
        before = wait_until(
            lambda: {token for token, batch in list(core.batches.items()) if batch.sequence}, "some of it is stored"
        )
        done = core.counts.done
        machine.json("backup", str(tmp_path / "file"))
        assert list(results) == list(range(20_000))
    assert before
    assert done < 20_000
    assert not other.json("restore", str(tmp_path / "file"))["settings_kept"]
    assert (other.home / "config.toml").read_text() == "slots = 1\n"
    work, reported = tokens_in(FarmFolder(other.home / "farm"))
    assert not before - work - reported
    (other.home / "config.toml").write_text("slots = 2\n")
    assert other.json("restore", str(tmp_path / "file"), "--force")["settings_kept"]
    assert (other.home / "config.toml").read_text() == "slots = 2\n"


def test_what_restore_refuses(farm: Machine, other: Machine, tmp_path: Path) -> None:
    file = tmp_path / "a file"
    text = farm.run("backup", str(file)).stdout
    assert "It holds the farm's keys" in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert farm.json("backup", str(file), code=Exit.USAGE)["kind"] == "UsageError"
    assert farm.json("backup", str(file), "--force")["file"] == str(file)
    assert farm.json("restore", str(file), "--force", code=Exit.RUNNING)["kind"] == "FarmRunning"
    assert other.json("backup", str(file), code=Exit.NOT_RUNNING)["kind"] == "FarmNotRunning"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    refused = other.json("restore", str(file), code=Exit.FAILED)
    assert (refused["kind"], str(file) in refused["error"]) == ("BackupDamaged", True)
    folder = FarmFolder(other.home / "farm")
    for bad in (whole[: len(whole) // 2] + b"x" + whole[len(whole) // 2 + 1 :], b"", b"something else"):
        file.write_bytes(bad)
        with pytest.raises(errors.BackupDamaged, match="a file"):
            backup.put_back(file, folder)
    for given, kind in (({"format": 99}, errors.BackupDamaged), ({"protocol": 0}, errors.VersionMismatch)):
        another = archive.Writer(file, replace=True)
        another.add("manifest", json.dumps({"format": 1, "version": "9.9", "created": "", **given}).encode())
        another.finish()
        with pytest.raises(kind, match=r"update it|version that made it"):
            backup.put_back(file, folder)
    assert not folder.root.exists()
    file.write_bytes(whole)
    assert other.json("restore", str(file))["users"] > 0
    kept = (other.home / "farm" / "users.json").read_bytes()
    assert other.json("restore", str(file), code=Exit.USAGE)["kind"] == "FarmNotEmpty"
    assert (other.home / "farm" / "users.json").read_bytes() == kept
    file.chmod(0o644)
    forced = other.run("restore", str(file), "--force")
    assert forced.returncode == 0
    assert "others can read" in forced.stderr
    (aside,) = (other.home / "farm").glob("before-restore-*")
    assert (aside / "users.json").read_bytes() == kept
    assert not list((other.home / "farm").glob("restoring-*"))
