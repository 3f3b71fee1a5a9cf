from __future__ import annotations

from typing import Any

import pytest
from tests.unit.core.effects import Effects

from farmhand.core.membership import (
    Disown,
    LanesChanged,
    Membership,
    NodeLost,
    SessionLost,
    TakeBack,
    Withdraw,
    orphans,
)
from farmhand.model import limits
from farmhand.model.ids import LaneId
from farmhand.model.messages import Holding, NodeBeat, SessionBeat
from farmhand.model.needs import Lane, Need


@pytest.fixture
def members() -> Membership:
    return Membership()


def beat(node: str = "a", incarnation: str = "a1", slots: int = 2, **more: Any) -> NodeBeat:
    return NodeBeat(1, "0", node, node, incarnation, "host", 1, slots, 0, "3.11", more.pop("capabilities", {}), **more)


def session_beat(session: str = "k1", **more: Any) -> SessionBeat:
    return SessionBeat(1, "0", session, "host", 1, "me", **more)


def holding(session: str = "k1", token: int = 7, sequence: int = 1, lane: str = "x") -> Holding:
    return Holding(lane, sequence, session, token, 1)


# ---- nodes


def test_a_node_is_new_then_known(members: Membership, seen: Effects) -> None:
    seen.add(members.on_node_beat(beat(), 0.0))
    seen.take(LanesChanged)
    seen.add(members.on_node_beat(beat(), 0.5))
    seen.nothing()
    seen.add(members.on_node_beat(beat(slots=4), 1.0))
    seen.take(LanesChanged)


def test_silence_loses_a_node_once_and_for_ever(members: Membership, seen: Effects) -> None:
    seen.add(members.on_node_beat(beat(), 0.0))
    seen.take(LanesChanged)
    seen.add(members.on_tick(limits.NODE_SILENCE_S - 0.01))
    seen.nothing()
    seen.add(members.on_tick(limits.NODE_SILENCE_S))
    assert seen.take(NodeLost).incarnation == "a1"
    seen.take(LanesChanged)
    seen.add(members.on_node_beat(beat(), 4.0))
    assert seen.take(Disown).incarnation == "a1"
    assert not members.nodes
    seen.add(members.on_node_beat(beat(incarnation="a2"), 4.1))
    seen.take(LanesChanged)


def test_a_closed_connection_loses_a_node_soon_unless_it_is_heard(members: Membership, seen: Effects) -> None:
    seen.add(members.on_node_beat(beat(), 0.0))
    seen.take(LanesChanged)
    assert members.on_disconnected("node:a:a1", 1.0)
    seen.add(members.on_node_beat(beat(), 1.1))
    seen.nothing()
    seen.add(members.on_tick(1.1 + limits.NODE_GONE_S))
    seen.nothing()
    assert members.on_disconnected("node:a:a1", 2.0)
    seen.add(members.on_tick(2.1 + limits.NODE_GONE_S))
    assert "connection" in seen.take(NodeLost).why
    seen.take(LanesChanged)
    assert not members.on_disconnected("node:a:a1", 3.0)
    assert not members.on_disconnected("node:b:b1", 3.0)
    assert members.on_disconnected("steward", 3.0)


def test_a_new_incarnation_replaces_the_old(members: Membership, seen: Effects) -> None:
    seen.add(members.on_node_beat(beat(), 0.0))
    seen.take(LanesChanged)
    seen.add(members.on_node_beat(beat(incarnation="a2"), 1.0))
    assert seen.take(NodeLost).incarnation == "a1"
    seen.take(LanesChanged)
    assert not members.on_disconnected("node:a:a1", 1.0)


def test_a_node_says_goodbye(members: Membership, seen: Effects) -> None:
    seen.add(members.on_node_bye("a", "a1"))
    seen.nothing()
    seen.add(members.on_node_beat(beat(), 0.0))
    seen.take(LanesChanged)
    seen.add(members.on_node_bye("a", "a0"))
    seen.nothing()
    seen.add(members.on_node_bye("a", "a1"))
    seen.take(NodeLost)
    seen.take(LanesChanged)


def test_only_so_many_lost_are_remembered(members: Membership, seen: Effects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farmhand.core.notes.NOTES_MAX", 1)
    for incarnation in ("a1", "a2", "a3"):
        seen.add(members.on_node_beat(beat(incarnation=incarnation), 0.0))
        seen.take_all(object)
    seen.add(members.on_node_beat(beat(incarnation="a2"), 0.0))
    seen.take(Disown)
    seen.add(members.on_node_beat(beat(incarnation="a1"), 0.0))  # forgotten
    seen.take_all(object)


def test_what_a_node_holds_in_vain_is_taken_back(members: Membership, seen: Effects) -> None:
    seen.add(members.on_session_beat(session_beat(), 0.0))
    seen.add(members.on_node_beat(beat(holding=(holding(),)), 0.0))
    seen.take(LanesChanged)
    members.on_given_back(7)
    seen.add(members.on_node_beat(beat(holding=(holding(), holding(token=8))), 0.1))
    assert seen.take(TakeBack).tokens == (7,)
    seen.add(members.on_session_beat(session_beat(ended=True), 0.2))
    seen.take(SessionLost)
    seen.add(members.on_node_beat(beat(holding=(holding(token=8),)), 0.3))
    assert seen.take(Withdraw).session == "k1"


def test_a_session_known_only_by_its_work_is_over_in_the_end(members: Membership, seen: Effects) -> None:
    held = (holding("k9"), holding("f9"), holding("k8"))
    for now in (0.0, limits.SESSION_SILENCE_S):
        seen.add(members.on_node_beat(beat(holding=held), now))
        seen.take_all(LanesChanged)
    seen.add(members.on_session_beat(session_beat("k8"), limits.SESSION_SILENCE_S))
    seen.add(members.on_tick(limits.SESSION_SILENCE_S))
    seen.take(LanesChanged)
    assert [(e.session, e.kill) for e in seen.take_all(SessionLost)] == [("k9", True), ("f9", False)]


# ---- sessions


def test_a_session_ends(members: Membership, seen: Effects) -> None:
    for _ in range(2):
        seen.add(members.on_session_beat(session_beat(), 0.0))
    assert "k1" in members.sessions
    seen.add(members.on_session_beat(session_beat(ended=True), 0.0))
    assert seen.take(SessionLost).kill
    seen.add(members.on_session_beat(session_beat(), 0.1))  # late
    assert not members.sessions


@pytest.mark.parametrize(("wish", "kill"), [("kill", True), ("finish", False)])
def test_a_session_whose_connection_closed_is_over(members: Membership, seen: Effects, wish: str, kill: bool) -> None:
    seen.add(members.on_session_beat(session_beat(on_client_loss=wish), 0.0))
    members.on_disconnected("session:k1", 1.0)
    members.on_disconnected("session:other", 1.0)
    seen.add(members.on_tick(1.1 + limits.SESSION_GONE_S))
    assert seen.take(SessionLost).kill is kill
    seen.add(members.on_session_beat(session_beat(), 4.0))  # it was a mistake
    assert "k1" in members.sessions


def test_silence_ends_a_session_late(members: Membership, seen: Effects) -> None:
    seen.add(members.on_session_beat(session_beat(), 0.0))
    seen.add(members.on_tick(limits.SESSION_SILENCE_S - 1))
    seen.take(LanesChanged)
    seen.add(members.on_tick(limits.SESSION_SILENCE_S))
    assert seen.take(SessionLost).why == "silent"


def test_nobody_is_lost_because_the_steward_was_blind(members: Membership, seen: Effects) -> None:
    seen.add(members.on_node_beat(beat(), 0.0))
    seen.take(LanesChanged)
    seen.add(members.on_session_beat(session_beat(), 0.0))
    members.on_disconnected("node:a:a1", 1.0)
    members.on_blind(40.0, 2.0)
    members.on_blind(40.1)  # the next look came late: that takes nothing of the slack away
    seen.add(members.on_tick(42.0 + limits.NODE_SILENCE_S - 0.1))
    seen.take(LanesChanged)
    assert members.nodes
    assert members.sessions


def test_a_census_finds_who_did_not_come_back(members: Membership, seen: Effects) -> None:
    for session in ("k1", "k2", "k3"):
        seen.add(members.on_session_beat(session_beat(session), 0.0))
    seen.add(members.on_session_beat(session_beat("k2"), 2.0))
    seen.add(members.on_node_beat(beat(holding=(holding("f7"),)), 2.0))
    seen.take(LanesChanged)
    seen.add(members.on_census(["k9", "k3"], {"k3"}, 1.0))
    gone = {effect.session: effect.kill for effect in seen.take_all(SessionLost)}
    assert gone == {"k9": True, "f7": False, "k1": True}
    assert set(members.sessions) == {"k2", "k3"}


# ---- lanes


def test_lanes_count_the_slots_that_serve_them(members: Membership, seen: Effects) -> None:
    wide = Lane((Need("cpus", "=", "2"), Need("gpu")), "3.11")
    state = members.on_lane(wide)
    assert members.on_lane(wide).id == state.id
    seen.add(members.on_node_beat(beat(slots=5, capabilities={"cpus": "5", "gpu": "1"}), 0.0))
    seen.take(LanesChanged)
    assert members.lanes[wide.id].slots == 2
    seen.add(members.on_node_beat(beat("b", "b1"), 0.0))
    seen.take(LanesChanged)
    assert not members.lanes[wide.id].lacking
    assert members.serving(wide.id) == ["a"]
    assert members.serving(LaneId("nowhere")) == []
    seen.add(members.on_node_beat(beat(slots=5, capabilities={"cpus": "5", "gpu": "1"}, leaving=True), 0.1))
    seen.take(LanesChanged)
    table = members.table()
    assert table.lanes[0].slots == 0
    assert "gpu" in table.lanes[0].lacking[0]
    assert table.pythons == ("3.11",)
    assert members.serving(wide.id) == ["a"]  # it may still hold work


def test_the_table_is_announced_now_and_then(members: Membership, seen: Effects) -> None:
    seen.add(members.on_tick(1.0))
    seen.nothing()
    for now in (limits.ANNOUNCE_S, 2 * limits.ANNOUNCE_S):
        seen.add(members.on_tick(now))
        seen.take(LanesChanged)


def test_orphans_are_what_nobody_holds() -> None:
    held = [holding(sequence=1), holding(sequence=2, lane="y")]
    assert orphans([1, 2, 3], held, "x") == [2, 3]
