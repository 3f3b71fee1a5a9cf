from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farmhand import errors
from farmhand.model import messages
from farmhand.model.messages import (
    Answer,
    Codec,
    Control,
    Gone,
    Holding,
    JoinRequest,
    LaneRequest,
    LaneState,
    LaneTable,
    NodeBeat,
    Output,
    Preamble,
    Profile,
    Report,
    ReportHead,
    SessionBeat,
    Started,
    Work,
    WorkHead,
    encode,
    pack,
    split,
)
from farmhand.model.needs import Lane, Need
from farmhand.model.outcome import BlobRef, Kind, Mark

CODECS = {name: codec for name, codec in vars(messages).items() if isinstance(codec, Codec)}
LANE = Lane((Need("gpu", "=", "1"),), "3.11", 2)
EXAMPLES: dict[str, Any] = {
    "read_preamble": Preamble(1, "v"),
    "read_work_head": WorkHead(1, "k1", 5, 3),
    "read_report_head": ReportHead(1, 5, 0, 2, "n", -1),
    "read_work": Work(
        1, "k1", 2**62, 3, Profile("c", "f", ("b",), timeout=1.5), 0.1, True, 2, (BlobRef(0, "x", 9),), numbers=(7,)
    ),
    "read_report": Report(
        1, 5, 0, 2, "n", -1, (Mark(1, Kind.CRASHED, "t", None, 9, ("l",), 7),), 0.1, 0.2, (BlobRef(0, "x", 9),)
    ),
    "read_started": Started(5, 1, "n", 0),
    "read_output": Output(5, 1, "n", 0, "f", ((1, "line"), (2, "other")), 3, 7),
    "read_control": Control(((5, 1),), True),
    "read_node_beat": NodeBeat(
        1, "v", "n", "name", "i", "h", 1, 2, 1, "3.11", {"gpu": "1"}, (Holding("l", 1, "k1", 5, 1),)
    ),
    "read_session_beat": SessionBeat(1, "v", "k1", "h", 1, "u", lanes=("l",), ended=True),
    "read_lane_request": LaneRequest(1, "v", LANE),
    "read_lane_table": LaneTable((LaneState(LANE, "l", 2, ("why",)),), ("3.11",)),
    "read_lane_state": LaneState(LANE, "l", 2),
    "read_gone": Gone(("k1",), ("i",), (5,)),
    "read_server_request": messages.ServerRequest(1, "v"),
    "read_join": JoinRequest(1, "v", "U", "node", "name"),
    "read_answer": Answer("", "", {"a": [1, None, True, 0.5]}),
    "read_holdings": (Holding("l", 1, "k1", 5, 1, "f", 0, 0.5, 7),),
}


@pytest.mark.parametrize("name", sorted(CODECS))
def test_a_message_is_read_as_it_was_written(name: str) -> None:
    assert CODECS[name](encode(EXAMPLES[name])) == EXAMPLES[name]


@pytest.mark.parametrize("name", sorted(CODECS))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_cannot_be_read_is_a_bad_message(name: str, data: st.DataObject) -> None:
    good = encode(EXAMPLES[name])
    kind = data.draw(st.sampled_from(["random", "cut", "flipped", "other"]))
    if kind == "random":
        bad = data.draw(st.binary(max_size=64))
    elif kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    elif kind == "flipped":
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    else:
        bad = encode(data.draw(st.recursive(st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
                                            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))))  # fmt: skip
    with contextlib.suppress(errors.BadMessage):  # and nothing else
        CODECS[name](bad)


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("bomb", [b"\x91" * 200_000, b"\x81\xa6result" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
                                  b"\xa2\xff\xfe", b"\x81\xa6result\xa2\xff\xfe", b"\xd6\xff\xff\xff\xff\xff",
                                  b"\x81\xa6result\xc7\x0c\xff" + b"\xff" * 12])  # fmt: skip
def test_a_bomb_is_a_bad_message(name: str, bomb: bytes) -> None:
    try:
        CODECS[name](bomb)
    except errors.BadMessage:
        return
    assert name in ("read_answer", "read_gone")  # a map of unknown fields, or none of them at all


def test_a_frame_is_taken_apart() -> None:
    header, body = split(pack(Started(5, 1, "n", 0), b"body"))
    assert messages.read_started(header) == Started(5, 1, "n", 0)
    assert bytes(body) == b"body"


@pytest.mark.parametrize("frame", [b"", b"\0\0\0", b"\0\0\0\5abcd", b"\xff\xff\xff\xff" + b"x" * 10])
def test_what_is_no_frame_is_a_bad_message(frame: bytes) -> None:
    with pytest.raises(errors.BadMessage):
        split(frame)


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_bad_message(frame: bytes) -> None:
    try:
        header, body = split(frame)
    except errors.BadMessage:
        return
    assert len(header) + len(body) + 4 == len(frame)


def test_a_newer_peer_may_add_fields() -> None:
    beat = msgspec.to_builtins(EXAMPLES["read_session_beat"]) | {"mood": "fine"}
    assert messages.read_session_beat(encode(beat)) == EXAMPLES["read_session_beat"]
    longer = [*msgspec.to_builtins(EXAMPLES["read_started"]), "more"]
    assert messages.read_started(encode(longer)) == EXAMPLES["read_started"]


@pytest.mark.parametrize("numbers", [[7], [7, 8, 9], [3, 9, 4], [0, 8, 9], [2, 0, 4]])
def test_each_task_of_a_batch_has_its_number(numbers: list[int]) -> None:
    work = Work(1, "k1", 5, len(numbers), Profile("c"), numbers=messages.span_of(numbers))
    assert [messages.number_at(work, index) for index in range(len(numbers))] == numbers
    assert messages.number_at(work, len(numbers)) == (numbers[0] if len(numbers) == 1 else 0)
    assert messages.number_at(work, -1) == (numbers[0] if len(numbers) == 1 else 0)  # nobody knows what ran


def test_a_following_batch_costs_one_number() -> None:
    assert messages.span_of(list(range(5, 133))) == (5,)
    assert messages.number_at(Work(1, "k1", 5, 3, Profile("c")), 1) == 0  # from a client that does not tell them
