"""`farm.options(...)`: views that are executors, and what they refuse."""

from __future__ import annotations

import sys
from concurrent.futures import Executor
from typing import Any

import pytest
from tests.chaos.farm import wait_until
from tests.integration.executor.conftest import priorities_sent
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive

from farmhand import Farm, Retry, errors
from farmhand.client.options import TaskOptions
from farmhand.model.needs import Lane


def double(x: int) -> int:
    return 2 * x


def test_a_view_is_an_executor_on_the_same_farm(farm: Farm) -> None:
    view = farm.options(needs=["cpus=1", "os"], retries=2, timeout=30, priority=3, name="doubling")
    assert isinstance(view, Executor)
    assert view._max_workers == farm._max_workers
    assert view.submit(double, 4).result(PATIENCE_S) == 8
    assert list(view.map(double, range(5))) == [0, 2, 4, 6, 8]
    with view as again:
        assert again.submit(double, 1).result(PATIENCE_S) == 2
    view.shutdown()
    assert farm.submit(double, 3).result(PATIENCE_S) == 6, "the farm stays open"


def test_a_view_of_a_view(farm: Farm) -> None:
    assert farm.options(name="one").options(priority=1).submit(double, 2).result(PATIENCE_S) == 4


@pytest.mark.parametrize("need", ["", "9lives", "a b", "mem=much", "cpus=", "cpus=x", "=3"])
def test_a_bad_need_is_named(farm: Farm, need: str) -> None:
    with pytest.raises(errors.BadNeed):
        farm.options(needs=[need])


@pytest.mark.parametrize(
    "wrong",
    [
        {"needs": "cpus=2"},
        {"retries": -1},
        {"retries": 1.5},
        {"retries": True},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "5"},
        {"timeout": float("nan")},
        {"priority": 101},
        {"priority": "high"},
        {"needs": [5]},
        {"name": 7},
    ],
    ids=str,
)
def test_a_bad_option_is_refused_at_once(farm: Farm, wrong: dict[str, Any]) -> None:
    with pytest.raises((errors.BadOption, errors.BadNeed)):
        farm.options(**wrong)


def test_no_time_limit_may_be_written_in_two_ways(farm: Farm) -> None:
    for none in (None, float("inf")):
        assert farm.options(timeout=none).submit(double, 2).result(PATIENCE_S) == 4


def test_a_retry_policy_is_checked() -> None:
    with pytest.raises(errors.BadOption):
        Retry(max=1, on=("bad luck",))
    with pytest.raises(errors.BadOption):
        Retry(max=1, factor=0.5)


def test_a_task_of_two_cpus_has_two_slots_to_itself(farm: Farm, meeting: Meeting) -> None:
    wide = farm.options(needs=["cpus=2"]).submit(arrive, meeting.place, "wide")
    visitor = meeting.wait()
    narrow = farm.submit(arrive, meeting.place, "narrow")
    assert farm.status()["nodes"][0]["slots"] == 2
    assert meeting.nobody_came()
    visitor.release()
    assert wide.result(PATIENCE_S) == "wide"
    meeting.wait().release()
    assert narrow.result(PATIENCE_S) == "narrow"


def test_higher_priority_goes_first(farm: Farm, meeting: Meeting) -> None:
    blockers = [farm.submit(arrive, meeting.place, "first") for _ in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    low = [farm.options(priority=-10).submit(arrive, meeting.place, "low") for _ in range(100)]
    high = [farm.options(priority=10).submit(arrive, meeting.place, "high") for _ in range(2)]
    wait_until(lambda: priorities_sent(farm) == {-10, 0, 10}, "some of each have been sent")
    for visitor in visitors:
        visitor.release()
    words = meeting.words(102)
    for future in blockers + low + high:
        future.result(PATIENCE_S)
    # What the node had in hand already, or had asked for, goes first; a loaded machine is late to ask for more.
    assert words[22:] == ["low"] * 80, words


def test_the_farm_can_be_looked_at_while_lanes_are_made(farm: Farm) -> None:
    for priority in range(30):
        future = farm.options(priority=priority).submit(double, priority)
        for question in ("status", "queues", "explain"):
            farm._driver.ask(question)
        assert future.result(PATIENCE_S) == 2 * priority


def test_what_no_node_offers_waits_and_can_be_cancelled(farm: Farm, caplog: pytest.LogCaptureFixture) -> None:
    future = farm.options(needs=["unobtainium"]).submit(double, 1)
    assert farm.submit(double, 1).result(PATIENCE_S) == 2
    assert not future.running()
    assert future.cancel()
    wait_until(
        lambda: any("unobtainium" in lane["needs"] and lane["lacking"] for lane in farm.status()["lanes"]),
        "the lane is there",
    )


def test_a_python_that_no_node_offers_is_an_error(farm: Farm) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    future = farm._submit(TaskOptions(lane=Lane((), "2.7")), double, (1,), {})
    with pytest.raises(errors.NoNodeForPython, match=rf"2\.7.*{here}"):
        future.result(PATIENCE_S)
    again = farm._submit(TaskOptions(lane=Lane((), "2.7")), double, (1,), {})
    assert isinstance(again.exception(PATIENCE_S), errors.NoNodeForPython)
    assert farm.submit(double, 1).result(PATIENCE_S) == 2


def test_a_python_that_no_node_offers_is_an_error_also_on_a_farm_that_just_starts() -> None:
    with Farm(max_workers=1, output=False) as farm:
        future = farm._submit(TaskOptions(lane=Lane((), "2.7")), double, (1,), {})
        assert isinstance(future.exception(PATIENCE_S), errors.NoNodeForPython)
