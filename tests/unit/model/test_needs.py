from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farmhand import errors
from farmhand.model.needs import Lane, Need, lacking, parse_need, quantity


@pytest.mark.parametrize(
    ("text", "need"),
    [
        ("latex", Need("latex")),
        (" GPU = 2 ", Need("gpu", "=", "2")),
        ("mem=8GiB", Need("mem", "=", "8GiB")),
        ("python>=3.12", Need("python", ">=", "3.12")),
        ("os==linux", Need("os", "=", "linux")),
        ("a.b-c_d<4", Need("a.b-c_d", "<", "4")),
    ],
)
def test_a_need_is_read(text: str, need: Need) -> None:
    assert parse_need(text) == need
    assert parse_need(str(need)) == need


@pytest.mark.parametrize("text", ["", "=2", "2x", "cpus=many", "mem=lots", "cpus=", "a b", "gpu=", "cpus=" + "9" * 400])
def test_what_is_no_need_is_named(text: str) -> None:
    with pytest.raises(errors.BadNeed):
        parse_need(text)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_is_a_need_or_a_bad_need(text: str) -> None:
    try:
        need = parse_need(text)
    except errors.BadNeed:
        return
    lane = Lane((need,))
    assert lane.cpus >= 1
    assert lane.memory >= 0
    assert isinstance(lane.lacks({need.name: text, "cpus": "2"}, ()), list)


@settings(max_examples=100, deadline=None)
@given(st.text(), st.sampled_from(["", "=", ">=", "<=", "<", ">", "?"]), st.text(), st.text())
def test_what_a_stranger_sends_does_no_harm(name: str, op: str, value: str, have: str) -> None:
    need = Need(name, op, value)
    lane = Lane((need, Need("cpus", "=", value), Need("mem", ">=", value)), have)
    assert isinstance(lacking(need, {name: have}), str)
    assert round(lane.cpus) >= 1
    assert lane.memory >= 0
    assert len(lane.id) == 12


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("2", 2), ("0.5", 0.5), ("8GiB", 8 * 1024**3), ("8G", 8e9), ("8gb", 8e9), ("1ki", 1024), ("3b", 3), ("1TiB", 1024**4),
        (" 7 ", 7), ("x", None), ("", None), ("-1", None), ("1.2.3", None), ("9" * 400, None), ("1e3", None),
    ],
)  # fmt: skip
def test_amounts(text: str, amount: float | None) -> None:
    assert quantity(text) == amount


@pytest.mark.parametrize(
    ("need", "have", "serves"),
    [
        ("latex", {"latex": "yes"}, True),
        ("latex", {}, False),
        ("gpu=2", {"gpu": "4"}, True),
        ("gpu=2", {"gpu": "1"}, False),
        ("gpu=2", {"gpu": "some"}, False),
        ("mem=8GiB", {"mem": "16GiB"}, True),
        ("mem>=8GiB", {"mem": "4GiB"}, False),
        ("python=3.11", {"python": "3.11"}, True),
        ("python=3.11", {"python": "3.9"}, False),
        ("python>=3.9", {"python": "3.11"}, True),
        ("python>3.11", {"python": "3.11"}, False),
        ("python<3.12", {"python": "3.11"}, True),
        ("python<=3.10", {"python": "3.11"}, False),
        ("os=linux", {"os": "Linux"}, True),
        ("os=linux", {"os": "darwin"}, False),
    ],
)
def test_what_serves_a_need(need: str, have: dict[str, str], serves: bool) -> None:
    assert (lacking(parse_need(need), have) == "") is serves


def test_a_lane_is_known_by_its_requirements_and_not_by_their_order() -> None:
    a, b = parse_need("gpu=1"), parse_need("latex")
    assert Lane((a, b)).id == Lane((b, a)).id
    lanes = [Lane(), Lane((a,)), Lane((b,)), Lane(python="3.11"), Lane(priority=1), Lane((a, b))]
    assert len({lane.id for lane in lanes}) == len(lanes)


def test_a_lane_says_what_it_takes_and_what_a_node_lacks() -> None:
    lane = Lane((parse_need("cpus=3"), parse_need("mem=2GiB"), parse_need("latex")), "3.12")
    assert (lane.cpus, lane.memory) == (3, 2 * 1024**3)
    assert (Lane().cpus, Lane().memory) == (1, 0)
    missing = lane.lacks({"cpus": "2", "mem": "4GiB"}, ("3.11",))
    assert missing == ["has only cpus=2", "has no latex", "has Python 3.11, not 3.12"]
    assert lane.lacks({"cpus": "4", "mem": "4GiB", "latex": ""}, ("3.11", "3.12")) == []
    assert "none" in lane.lacks({}, ())[-1]
