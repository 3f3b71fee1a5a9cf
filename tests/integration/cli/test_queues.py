"""`farmhand queues` and `farmhand explain` while tasks wait, run and cannot run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.cli.conftest import Machine, wait_until

from farmhand import Farm
from farmhand.cli.exits import Exit


def wait_for(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return path


class Waiting:
    """A session of which one task runs and the others wait: for the slot, for a gpu, and urgently."""

    def __init__(self, client: Farm, gate: Path) -> None:
        self.client = client
        self.gate = gate
        self.first = client.submit(wait_for, str(gate))
        wait_until(self.first.running, "the first one runs")
        self.queued = [client.submit(wait_for, str(gate)) for _ in range(4)]
        self.urgent = client.options(priority=5).submit(abs, -1)
        self.gpu = client.options(needs=["gpu"], name="paint").submit(abs, -2)


@pytest.fixture
def waiting(farm: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    monkeypatch.setenv("FARMHAND_HOME", str(farm.home))
    with Farm(farm.farm_file()["address"], output=False) as client:
        waiting = Waiting(client, tmp_path / "gate")
        yield waiting
        waiting.gate.touch()
        waiting.gpu.cancel()


def mine(report: Any, session: str) -> list[dict[str, Any]]:
    return [lane for lane in report["lanes"] if any(s["session"] == session for s in lane["sessions"])]


def test_what_waits_in_each_lane(farm: Machine, waiting: Waiting) -> None:
    session = waiting.client.session
    report = wait_until(
        lambda: r if len(mine(r := farm.json("queues", "--now"), session)) == 3 else None, "three lanes"
    )
    plain, urgent, gpu = sorted(mine(report, session), key=lambda lane: (lane["needs"], lane["priority"]))
    assert (plain["slots"], gpu["slots"], gpu["needs"], urgent["priority"]) == (1, 0, ["gpu"], 5)
    assert "has no gpu" in gpu["lacking"][0]
    assert (gpu["waiting"], gpu["tasks_waiting"], gpu["tasks_estimated"]) == (1, 1, False)
    assert plain["waiting"] + plain["taken"] == sum(s["messages"] for s in plain["sessions"])
    assert plain["oldest_seconds"] > 0
    assert plain["messages_per_second"] is None
    rated = farm.json("queues")
    assert all(lane["messages_per_second"] is not None for lane in rated["lanes"])
    text = farm.run("queues").stdout
    for word in ("Lanes", "messages/s", session, "gpu"):
        assert word in text


def test_why_each_one_does_not_run(farm: Machine, waiting: Waiting) -> None:
    def explained(who: str, state: str) -> dict[str, Any]:
        """What a node holds is known from its last heartbeat."""

        def look() -> Any:
            found = farm.json("explain", who)["found"]
            return found[0] if found and found[0]["state"] == state else None

        return wait_until(look, f"{who} is {state}")  # type: ignore[no-any-return]

    running = explained(waiting.first.task_id, "running")
    assert (running["name"], running["node"]) == ("wait_for", running["nodes"][0]["name"])
    assert running["running_seconds"] > 0
    gpu = explained(waiting.gpu.task_id, "waiting")
    assert gpu["reasons"][0] == "No node serves it."
    assert "has no gpu" in gpu["reasons"][1]
    assert gpu["nodes"][0]["lacks"] == ["has no gpu"]
    assert explained("paint", "waiting")["session"] == waiting.client.session
    last = explained(waiting.queued[1].task_id, "waiting")  # the first of them was fetched ahead by the node
    assert waiting.first.task_id in last["reasons"][0]
    text = farm.run("explain").stdout
    for word in ("wait_for", "No node serves it.", "running", waiting.client.session):
        assert word in text


def test_what_only_the_client_knows(farm: Machine, waiting: Waiting) -> None:
    """More than the window: the rest waits in the client."""
    hidden = waiting.queued[-1]
    report = farm.json("explain", hidden.task_id)
    assert report["found"] == []
    assert any("only the client knows" in note for note in report["notes"])
    assert any(f"Session {waiting.client.session} is alive" in note for note in report["notes"])


def test_nothing_to_explain(farm: Machine, machine: Machine) -> None:
    assert machine.json("explain", code=Exit.NOT_RUNNING)["kind"] == "FarmNotRunning"
    assert machine.json("queues", code=Exit.NOT_RUNNING)["kind"] == "FarmNotRunning"
    nothing = "Nothing waits. 0 of 1 slots on 1 nodes are busy.\n"
    wait_until(lambda: farm.run("explain").stdout == nothing, "nothing is there")
    gone = farm.json("explain", "k0123456789ab/3")
    assert (gone["asked"]["number"], gone["found"]) == (3, [])
    assert "No session k0123456789ab is here" in gone["notes"][0]
