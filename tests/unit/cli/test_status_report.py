from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from farmhand.cli.status_report import add_means, add_rates
from farmhand.cli.status_tables import overview, size


def report() -> dict[str, Any]:
    work = {"cpu_seconds": 1.0, "total_seconds": 4.0, "bytes_in": 10, "bytes_out": 2000}
    node = {
        "name": "barn",
        "incarnation": "a",
        "slots": 2,
        "busy": 1,
        "runs": 8,
        "failures": 1,
        "silent": 0.1,
        "leaving": False,
        **work,
    }
    session = {
        "session": "s1",
        "user": "ann",
        "host": "h",
        "pid": 7,
        "waiting": 3,
        "running": 1,
        "done": 7,
        "failed": 1,
        **work,
    }
    lane = {
        "id": "l",
        "needs": ["gpu=1"],
        "python": "3.11",
        "priority": 0,
        "slots": 0,
        "waiting": 2,
        "taken": 0,
        "lacking": ["barn has no gpu"],
    }
    storage = {"work": {"messages": 2, "bytes": 1_500_000}}
    return {
        "address": "nats://h:1",
        "version": "1",
        "engine": {"version": "2", "storage": storage},
        "nodes": [node],
        "sessions": [session],
        "lanes": [lane],
    }


def shown(found: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(overview(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_means_and_unmet_needs() -> None:
    found = add_means(report())
    assert found["nodes"][0]["seconds_per_run"] == 0.5
    assert found["nodes"][0]["cpu_share"] == 0.25
    assert found["sessions"][0]["seconds_per_run"] == 0.5
    assert found["unmet"] == [{"needs": ["gpu=1"], "python": "3.11", "waiting": 2, "lacking": ["barn has no gpu"]}]
    text = shown(found)
    for word in (
        "barn",
        "ann@h:7",
        "No node meets: gpu=1, Python 3.11: barn has no gpu",
        "1.5 MB",
        "1 of 2 slots busy",
        "s/run",
    ):
        assert word in text


def test_nothing_has_run_yet() -> None:
    found = report()
    found["nodes"][0] |= {"runs": 0, "total_seconds": 0.0}
    assert add_means(found)["nodes"][0]["seconds_per_run"] is None
    found |= {"nodes": [], "sessions": [], "lanes": [], "unmet": []}
    assert "none" in shown(found)


def test_rates_of_two_looks() -> None:
    before, now = add_means(report()), report()
    now["nodes"][0]["runs"] += 10
    now["nodes"].append({**copy.deepcopy(now["nodes"][0]), "name": "new", "incarnation": "b", "runs": 1000})
    now["sessions"][0]["failed"] += 4
    found = add_rates(add_means(now), before, 2.0)
    assert found["rates"]["runs_per_second"] == 5.0  # a node that has just come brings no rate
    assert found["nodes"][1]["runs_per_second"] is None
    assert found["sessions"][0]["runs_per_second"] == 2.0
    assert "runs/s" in shown(found)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")]
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert size(count) == text
