"""The end of an old connection is not the end of who has moved on."""

from __future__ import annotations

import msgspec

from farmhand.steward.census import Doors
from farmhand.steward.member import _peer_of, _strangers


def event(server: str, number: int, name: str = "node:barn:1") -> bytes:
    return msgspec.json.encode({"server": {"id": server}, "client": {"id": number, "name": name}})


def test_who_moved_is_still_here() -> None:
    doors = Doors()
    doors.on_connect(event("A", 5))
    doors.on_connect(event("B", 7))
    assert doors.on_disconnect(event("A", 5)) == ""
    assert doors.on_disconnect(event("B", 7)) == "node:barn:1"


def test_a_number_is_another_one_on_another_server() -> None:
    doors = Doors()
    doors.on_connect(event("A", 5))
    assert doors.on_disconnect(event("B", 5)) == ""


def test_who_came_before_we_looked_is_believed() -> None:
    assert Doors().on_disconnect(event("A", 5)) == "node:barn:1"


def test_ids_of_peers_are_the_engines_own() -> None:
    assert [_peer_of(name) for name in ("s0", "s1", "s2")] == ["oOmETQrn", "k2My6qdB", "noC8kOtg"]


def test_only_dead_strangers_lose_their_vote_and_none_when_ids_are_not_understood() -> None:
    own = {"a", "b", "c"}
    assert _strangers({"a": True, "b": True, "c": False, "old": False}, own) == ["old"]
    assert _strangers({"a": True, "b": True, "c": True}, own) == []
    assert _strangers({"x": True, "y": True, "z": False}, own) == []
