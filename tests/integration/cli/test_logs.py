"""`farmhand logs`: what tasks printed is there when everything that had to do with them is gone."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.integration.cli.conftest import Machine, wait_until

from farmhand import Farm
from farmhand.cli.exits import Exit


def chat(number: int) -> int:
    print("hello", number)
    print("trouble", number, file=sys.stderr)
    return number


def count_aloud(path: str) -> None:
    """Until somebody says that it is enough."""
    number = 0
    while not Path(path).exists():
        print("number", number)
        number += 1
        time.sleep(0.002)
    print("last", number)


def lines(machine: Machine, *arguments: str) -> list[dict[str, Any]]:
    done = machine.run("logs", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_lines(machine: Machine, count: int, *arguments: str) -> list[dict[str, Any]]:
    """Lines travel beside the results, so the last ones may come a moment later."""
    return wait_until(lambda: found if len(found := lines(machine, *arguments)) >= count else None, f"{count} lines")  # type: ignore[no-any-return]


@pytest.fixture
def client(farm: Machine, monkeypatch: pytest.MonkeyPatch) -> Farm:
    monkeypatch.setenv("FARMHAND_HOME", str(farm.home))
    return Farm(farm.farm_file()["address"], output=False)


def test_lines_of_a_session_of_a_task_and_of_a_name(farm: Machine, client: Farm) -> None:
    before = time.time()
    with client:
        first = client.submit(chat, 1)
        assert first.result(30) == 1
        named = client.options(name="second").submit(chat, 2)
        assert named.result(30) == 2
        session = client.session
    assert (first.task_id, named.task_id) == (f"{session}/1", f"{session}/2")
    found = wait_lines(farm, 4, session)
    assert [(line["number"], line["stream"], line["text"]) for line in found] == [
        (1, "stdout", "hello 1"), (1, "stderr", "trouble 1"), (2, "stdout", "hello 2"), (2, "stderr", "trouble 2"),
    ]  # fmt: skip
    assert found[0].keys() == {"time", "session", "number", "name", "node", "slot", "stream", "text", "dropped"}
    assert found[0]["session"] == session
    assert before - 60 < found[0]["time"] < time.time() + 60
    for who in (named.task_id, f"{session}/second", "second", f"{session[:6]}/2"):
        assert [line["text"] for line in lines(farm, who)] == ["hello 2", "trouble 2"]
    assert [line["text"] for line in lines(farm, session, "-n", "1")] == ["trouble 2"]
    assert len(lines(farm, session, "--since", "1h")) == 4
    assert lines(farm, session, "--since", "2100-01-01") == []


def test_for_people(farm: Machine, client: Farm) -> None:
    with client:
        client.options(name="spoken").submit(chat, 3).result(30)
        session = client.session
    wait_lines(farm, 2, session)
    text = farm.run("logs", session).stdout.splitlines()
    assert [line.split("] ")[1] for line in text] == ["hello 3", "trouble 3"]
    assert " [spoken #1 " in text[0]
    assert f" [spoken {session}/1 " in farm.run("logs", "spoken").stdout
    for plain in (farm.run("logs", session, "--plain"), farm.run("logs", session, FARMHAND_OUTPUT="plain")):
        assert plain.stdout.splitlines() == ["hello 3", "trouble 3"]
    nothing = farm.run("logs", "unheard-of")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "Nothing that unheard-of printed is kept" in nothing.stderr
    assert farm.run("logs", "--since", "yesterday").returncode == Exit.USAGE


def test_an_error_names_the_task(client: Farm) -> None:
    with client:
        error = client.submit(int, "no number").exception(30)
        assert error is not None
        assert any(f"({client.session}/1)" in note for note in error.__notes__)


def test_follows_until_it_is_interrupted(farm: Machine, client: Farm) -> None:
    with client, farm.start("logs", "-f", client.session, "--plain") as follow:
        client.submit(chat, 4).result(30)
        follow.wait_line("hello 4")
        client.submit(chat, 5).result(30)
        follow.wait_line("hello 5")
        assert follow.end(signal.SIGINT) == Exit.OK
    assert "Traceback" not in follow.said


def test_kept_when_all_that_had_to_do_with_it_is_gone(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = machine.up()
    monkeypatch.setenv("FARMHAND_HOME", str(machine.home))
    gate = tmp_path / "enough"
    with Farm(ready["address"], output=False) as farm:
        future = farm.submit(count_aloud, str(gate))
        wait_lines(machine, 20, farm.session)
        os.kill(ready["engine_pid"], signal.SIGKILL)
        before = len(
            wait_until(lambda: machine.run("status").returncode == 0 and lines(machine, farm.session), "it is back")
        )
        wait_lines(machine, before + 20, farm.session)
        gate.touch()
        assert future.result(30) is None
        said = wait_until(
            lambda: found if (found := lines(machine, farm.session))[-1]["text"][:4] == "last" else None, "the end"
        )
    last = int(said[-1]["text"].split()[1])
    texts = [line["text"] for line in said]
    assert texts == [
        *(f"number {number}" for number in range(last)),
        f"last {last}",
    ]  # nothing is missing, nothing twice
    parts = {ready["steward_pid"], *ready["node_pids"]}
    for pid in parts:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in parts), "they are dead")
    machine.run("down")
    machine.up()
    assert [line["text"] for line in lines(machine, future.task_id)] == texts
