"""The initializer: once in each slot, before its first task of the farm."""

from __future__ import annotations

import concurrent.futures as cf
import os
import threading
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.executor.tally import Tally

from farmhand import Farm, errors

_ready: dict[str, object] = {}


def set_up(tally: Tally, value: object) -> None:
    tally.add()
    _ready["value"] = value
    _ready["pid"] = os.getpid()


def value() -> object:
    return _ready["value"]


def same_process() -> bool:
    return _ready["pid"] == os.getpid()


def meet_with_value(place: tuple[str, int]) -> object:
    arrive(place)
    return _ready["value"]


def test_it_runs_once_in_each_slot(tally: Tally, meeting: Meeting) -> None:
    with Farm(max_workers=2, initializer=set_up, initargs=(tally, "here"), output=False) as farm:
        futures = [farm.submit(meet_with_value, meeting.place) for _ in range(2)]
        visitors = [meeting.wait(), meeting.wait()]
        assert len({v.pid for v in visitors}) == 2
        for visitor in visitors:
            visitor.release()
        assert [f.result(PATIENCE_S) for f in futures] == ["here", "here"]
        assert all(farm.map(lambda _: same_process(), range(100)))
        assert list(farm.options(priority=1).map(abs, range(5))) == list(range(5))
        assert tally.count == 2


def test_a_new_slot_is_set_up_too(tally: Tally) -> None:
    with Farm(max_workers=1, initializer=set_up, initargs=(tally, 5), output=False) as farm:
        assert farm.submit(value).result(PATIENCE_S) == 5
        assert isinstance(farm.submit(os._exit, 1).exception(PATIENCE_S), errors.TaskCrashed)
        assert farm.submit(value).result(PATIENCE_S) == 5
        assert tally.count >= 2


def test_what_it_sets_is_seen_by_functions_that_travel_by_value(tally: Tally) -> None:
    namespace: dict[str, object] = {"__name__": "__main__", "tally": tally}
    exec(
        "level = 0\ndef init():\n    global level\n    level = 9\n    tally.add()\ndef read():\n    return level\n",
        namespace,
    )
    with Farm(max_workers=1, initializer=namespace["init"], output=False) as farm:  # type: ignore[arg-type]
        assert farm.submit(namespace["read"]).result(PATIENCE_S) == 9  # type: ignore[arg-type]


@pytest.mark.parametrize("how", [ValueError("no licence"), SystemExit(3)], ids=["raises", "exits"])
def test_one_that_fails_breaks_the_farm(how: BaseException, meeting: Meeting) -> None:
    def fail() -> None:
        raise how

    with Farm(max_workers=2, initializer=fail, output=False) as farm:
        futures = [farm.submit(abs, -i) for i in range(50)]
        for future in futures:
            error = future.exception(PATIENCE_S)
            assert isinstance(error, BrokenExecutor), repr(error)
            assert isinstance(error, errors.InitializerFailed)
            assert type(how).__name__ in str(error)
        with pytest.raises(BrokenExecutor):
            farm.submit(abs, -1)
        with pytest.raises(BrokenExecutor):
            farm.map(abs, [-1])


def test_one_that_kills_its_slot_breaks_the_farm() -> None:
    with Farm(max_workers=1, initializer=os._exit, initargs=(4,), output=False) as farm:
        futures = [farm.submit(abs, -i) for i in range(3)]
        assert cf.wait(futures, PATIENCE_S).not_done == set()
        assert all(isinstance(f.exception(), BrokenExecutor) for f in futures)


def test_arguments_that_cannot_be_pickled_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="pickle"):
        Farm(max_workers=1, initializer=print, initargs=(threading.Lock(),), output=False)
