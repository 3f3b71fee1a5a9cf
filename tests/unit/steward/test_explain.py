"""Why a task waits, in words, for farms that are hard to build: many nodes, other lanes, long queues."""

from __future__ import annotations

from typing import Any

import pytest

from farmhand.core.membership import Membership
from farmhand.model.asked import Asked
from farmhand.model.messages import Holding, NodeBeat, Profile, Work, span_of
from farmhand.model.needs import Lane, parse_need
from farmhand.steward.explain import _LaneView
from farmhand.steward.queues import LaneFacts, Queued, lane_document

PLAIN = Lane(python="3.11")
GPU = Lane((parse_need("gpu"),), "3.11")
URGENT = Lane(python="3.11", priority=5)


def beat(
    name: str, *holding: Holding, slots: int = 1, busy: int = 0, leaving: bool = False, **capabilities: str
) -> NodeBeat:
    return NodeBeat(1, "v", name, name, f"i-{name}", "host", 1, slots, busy, "3.11", {"cpus": "2", **capabilities}, holding,
                    leaving=leaving, ready=slots)  # fmt: skip


def queued(sequence: int, session: str, numbers: list[int], name: str = "f") -> Queued:
    return Queued(
        sequence, Work(1, session, sequence, len(numbers), Profile("c", name), numbers=span_of(numbers)), 90.0
    )


class Farm:
    def __init__(self, *beats: NodeBeat) -> None:
        self.membership = Membership()
        for one in beats:
            self.membership.on_node_beat(one, 0.0)
        self.lanes: list[LaneFacts] = []

    def lane(self, lane: Lane, *front: Queued, delivered: int = 0, waiting: int = -1, taken: int = 0) -> LaneFacts:
        facts = LaneFacts(self.membership.on_lane(lane), 100.0, len(front) if waiting < 0 else waiting, taken, delivered,
                          front=list(front))  # fmt: skip
        self.lanes.append(facts)
        return facts

    def explain(self, facts: LaneFacts, asked: Asked = Asked()) -> list[dict[str, Any]]:  # noqa: B008 (frozen)
        return _LaneView(facts, self.lanes, self.membership, 0.5).entries(asked, facts.front)


def test_what_each_node_lacks() -> None:
    farm = Farm(beat("barn"), beat("shed", gpu="1", leaving=True))
    (entry,) = farm.explain(farm.lane(GPU, queued(1, "k1", [1])))
    assert entry["reasons"] == ["No node serves it.", "Node barn has no gpu.", "Node shed is leaving."]
    assert [(node["name"], node["serves"], node["lacks"]) for node in entry["nodes"]] == [
        ("barn", False, ["has no gpu"]), ("shed", False, []),
    ]  # fmt: skip


def test_a_task_wider_than_every_node() -> None:
    farm = Farm(beat("barn", slots=1))
    (entry,) = farm.explain(farm.lane(Lane((parse_need("cpus=2"),), "3.11"), queued(1, "k1", [1])))
    assert entry["reasons"][1] == "Node barn has 1 of the 2 slots that it takes."


def test_no_node_at_all() -> None:
    farm = Farm()
    (entry,) = farm.explain(farm.lane(PLAIN, queued(1, "k1", [1])))
    assert entry["reasons"] == ["There is no node; `farmhand join` adds one."]


def test_what_is_ahead_and_what_runs() -> None:
    runs = Holding(PLAIN.id, 1, "k1", 1, 1, "long", 0, 12.0, 4)
    farm = Farm(beat("barn", runs, busy=1))
    farm.lane(URGENT, queued(7, "k9", [1]))
    facts = farm.lane(PLAIN, queued(1, "k1", [4], "long"), queued(2, "k1", [5, 6]), queued(3, "k2", [1]), delivered=1,
                      waiting=2, taken=1)  # fmt: skip
    (entry,) = farm.explain(facts, Asked("k2", 1))
    assert entry["ahead"] == {"messages": 1, "tasks": 2, "sessions": {"k1": 1}, "at_least": False}
    assert entry["reasons"] == [
        "All 1 slots that serve it are busy: long k1/4 on barn since 12.0 s.",
        "Ahead in its lane: 1 message with 2 tasks (1 of k1).",
        "For the same nodes, more urgent: 1 message with other needs (nothing), priority 5.",
    ]
    (running,) = farm.explain(facts, Asked("k1", 4))
    assert (running["state"], running["node"], running["reasons"]) == (
        "running",
        "barn",
        ["It runs on barn since 12.0 s."],
    )
    assert farm.explain(facts, Asked("k1", 99)) == []
    assert farm.explain(facts, Asked(name="unheard-of")) == []


def test_what_a_node_has_and_does_not_run_yet() -> None:
    farm = Farm(beat("barn", Holding(PLAIN.id, 1, "k1", 1, 2, "f", 0, 3.0, 1), Holding(PLAIN.id, 2, "k1", 2, 1, "f")))
    facts = farm.lane(PLAIN, queued(1, "k1", [1, 2]), queued(2, "k1", [3]), queued(3, "k1", [4]), delivered=3, taken=3,
                      waiting=0)  # fmt: skip
    said = [farm.explain(facts, Asked("k1", number))[0]["reasons"][0] for number in (1, 2, 3, 4)]
    assert said == [
        "It runs on barn since 3.0 s.",
        "Node barn has it, and the slot is at number 1.",
        "Node barn has it, and no slot is free for it yet.",
        "It was given to a node, and none says that it has it: it is on its way, or was just handed back.",
    ]


def test_deeper_than_we_look() -> None:
    farm = Farm(beat("barn"))
    facts = farm.lane(PLAIN, queued(1, "k1", [1]), waiting=1000)
    deep = queued(900, "k2", [7])
    (entry,) = _LaneView(facts, farm.lanes, farm.membership, 0.5).entries(Asked("k2", 7), [deep])
    assert entry["ahead"]["at_least"]
    assert any("at least 1 message" in reason for reason in entry["reasons"])


@pytest.mark.parametrize(("waiting", "tasks", "estimated"), [(2, 6, False), (10, 30, True)])
def test_tasks_are_counted_or_estimated(waiting: int, tasks: int, estimated: bool) -> None:
    farm = Farm()
    facts = farm.lane(PLAIN, queued(1, "k1", [1, 2]), queued(2, "k1", [3, 4, 5, 6]), waiting=waiting)
    document = lane_document(facts)
    assert (document["tasks_waiting"], document["tasks_estimated"]) == (tasks, estimated)
    assert document["oldest_seconds"] == 10.0
