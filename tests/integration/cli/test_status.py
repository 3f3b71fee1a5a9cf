"""`farmhand status` while work is done, for people and for programs."""

from __future__ import annotations

import json
import signal

import pytest
from tests.integration.cli.conftest import Machine, wait_until

from farmhand import Farm
from farmhand.cli.exits import Exit

NODE_KEYS = {
    "name",
    "slots",
    "busy",
    "runs",
    "failures",
    "cpu_seconds",
    "total_seconds",
    "bytes_in",
    "bytes_out",
    "ready",
    "silent",
    "seconds_per_run",
    "cpu_share",
    "runs_per_second",
}
SESSION_KEYS = {
    "session",
    "waiting",
    "running",
    "done",
    "failed",
    "cpu_seconds",
    "total_seconds",
    "bytes_in",
    "bytes_out",
}
LANE_KEYS = {"id", "needs", "python", "priority", "slots", "waiting", "taken", "lacking"}


def fails() -> None:
    raise ValueError


def test_the_join_line_again(farm: Machine, machine: Machine) -> None:
    line = farm.farm_file()["join_line"]
    assert farm.run("status", "--join-line").stdout.strip() == line
    assert farm.json("status", "--join-line") == {"join_line": line}
    assert machine.run("status", "--join-line").returncode == Exit.NOT_RUNNING


@pytest.fixture
def client(farm: Machine, monkeypatch: pytest.MonkeyPatch) -> Farm:
    monkeypatch.setenv("FARMHAND_HOME", str(farm.home))
    return Farm(farm.farm_file()["address"])


def test_counts_what_was_done(farm: Machine, client: Farm) -> None:
    with client:
        assert list(client.map(abs, range(50))) == list(range(50))
        assert client.submit(fails).exception(30) is not None

        def counted() -> dict[str, object] | None:
            report = farm.json("status")
            mine = [
                s for s in report["sessions"] if s["session"] == client.session and s["done"] == 50 and s["failed"] == 1
            ]
            return report if mine and report["nodes"][0]["runs"] >= 50 else None

        report = wait_until(counted, "the status has the counts")
    assert report["nodes"][0].keys() >= NODE_KEYS
    assert report["sessions"][0].keys() >= SESSION_KEYS
    assert report["lanes"][0].keys() >= LANE_KEYS
    assert report["engine"]["storage"].keys() == {"work", "result", "blob", "session", "failed", "log"}
    assert report["unmet"] == []
    assert report["rates"] is None
    text = farm.run("status").stdout
    for word in ("Nodes", "Lanes", "cpu s", "slots", report["nodes"][0]["name"]):
        assert word in text


def test_names_what_no_node_has(farm: Machine, client: Farm) -> None:
    with client:
        future = client.options(needs=["unobtainium"]).submit(abs, 1)
        unmet = wait_until(lambda: farm.json("status")["unmet"], "the lane is known")
        assert unmet[0]["needs"] == ["unobtainium"]
        assert "has no unobtainium" in unmet[0]["lacking"][0]
        assert "No node meets: unobtainium" in farm.run("status").stdout
        assert future.cancel()


def test_watch_gives_rates_until_it_is_interrupted(farm: Machine, client: Farm) -> None:
    with client, farm.start("status", "--watch", "--json") as watch:
        watch.wait_line('"rates": null')
        list(client.map(abs, range(2000)))

        def busy() -> bool:
            rates = json.loads(watch.wait_line('"rates": {'))["rates"]
            assert rates["seconds"] > 0
            return bool(rates["runs_per_second"] > 0)

        wait_until(busy, "a look with runs in it")
        assert watch.end(signal.SIGINT) == Exit.OK


def test_nobody_to_ask(machine: Machine) -> None:
    assert machine.json("status", code=Exit.NOT_RUNNING)["kind"] == "FarmNotRunning"
    done = machine.run("status", "--farm", "http://x")
    assert done.returncode == Exit.USAGE
    assert done.stderr.startswith("farmhand: ")
    assert machine.run("--debug", "status").stderr.startswith("Traceback")
