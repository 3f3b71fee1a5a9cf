"""`farmhand sessions` and `farmhand failed`: what outlives its client, and what ended badly."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from tests.integration.cli.conftest import DEADLINE_S, Machine, wait_until

SUBMIT = """
import sys
from farmhand import Farm

def work(x, flag):
    import pathlib
    if x == 3 and not pathlib.Path(flag).exists():
        raise ValueError(f"no {x}")
    return x * x

name, flag = sys.argv[1:]
with Farm(ADDRESS, session=name or None, output=False) as farm:
    futures = [farm.submit(work, x, flag) for x in range(6)]
    print([str(future.exception() or future.result()) for future in futures])
"""


@pytest.fixture
def address(machine: Machine) -> str:
    found: str = machine.up("--slots", "1")["address"]
    return found


def submit(machine: Machine, address: str, session: str, flag: object) -> str:
    program = SUBMIT.replace("ADDRESS", repr(address))
    done = subprocess.run([sys.executable, "-c", program, session, str(flag)], env=machine.environment, text=True,
                          capture_output=True, timeout=DEADLINE_S, check=True)  # fmt: skip
    return done.stdout


def state(machine: Machine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = machine.json("sessions", "show", name)
    return found


def stored(machine: Machine) -> int:
    """Messages of sessions in the engine."""
    storage = machine.json("status")["engine"]["storage"]
    return sum(storage[name]["messages"] for name in ("work", "result", "session"))


def test_sessions_are_listed_shown_changed_and_removed(machine: Machine, address: str) -> None:
    assert "No named session" in machine.run("sessions").stdout
    assert machine.json("sessions", "ls") == []
    assert "no 3" in submit(machine, address, "night", machine.home / "flag")
    (listed,) = machine.json("sessions", "ls")
    assert (listed["name"], listed["submitted"], listed["done"], listed["failed"], listed["open"]) == (
        "night",
        6,
        5,
        1,
        0,
    )
    table = machine.run("sessions", "ls").stdout
    assert "night" in table
    assert "7d" in table
    shown = machine.run("sessions", "show", "night").stdout
    assert "ValueError: no 3" in shown
    assert machine.json("sessions", "set", "night", "--keep", "30d", "--result-max", "1MiB")["keep"] == 30 * 86400
    assert state(machine, "night")["result_max"] == 1 << 20
    assert machine.json("sessions", "set", "night", "--keep", "soon", code=2)["kind"] == "BadOption"
    assert machine.json("sessions", "rm", "night") == {"removed": ["night"]}
    refused = machine.json("sessions", "show", "night", code=1)
    assert refused["kind"] == "SessionUnknown"
    assert "'night'" in refused["error"]
    wait_until(lambda: not stored(machine), "nothing is left")


@pytest.mark.parametrize("session", ["night", ""], ids=["of a named session", "of an ordinary one"])
def test_what_failed_runs_again(machine: Machine, address: str, session: str) -> None:
    flag = machine.home / "flag"
    submit(machine, address, session, flag)
    (failed,) = wait_until(lambda: machine.json("failed"), "the failure is known")
    assert (failed["task"], failed["kind"], failed["text"], failed["lacking"]) == (
        "work",
        "raised",
        "ValueError: no 3",
        "",
    )
    assert failed["named"] == bool(session)
    assert "ValueError: no 3" in machine.run("failed").stdout
    assert machine.json("failed", "another") == []
    flag.touch()
    (again,) = machine.json("failed", "work", "--retry")
    name = session or "retries"
    assert again["again"] == name
    wait_until(lambda: state(machine, name)["open"] == 0, "it has run")
    assert machine.json("failed") == []
    program = f"from farmhand import Farm; f = Farm({address!r}).attach({name!r}); print(f[-1].result())"
    done = subprocess.run([sys.executable, "-c", program], env=machine.environment, text=True, capture_output=True,
                          timeout=DEADLINE_S, check=True)  # fmt: skip
    assert done.stdout.split() == ["9"]


def test_what_failed_can_be_forgotten(machine: Machine, address: str) -> None:
    submit(machine, address, "", machine.home / "flag")
    (failed,) = wait_until(lambda: machine.json("failed"), "the failure is known")
    assert [task["id"] for task in machine.json("failed", str(failed["id"]), "--forget")] == [failed["id"]]
    assert "No task has ended badly" in machine.run("failed").stdout
    assert machine.run("failed", "--retry", "--forget").returncode == 2
    assert json.loads(machine.run("failed", "--retry", "--json").stdout) == []
