"""`farmhand.Pool` does what `multiprocessing.Pool` does."""

from __future__ import annotations

import functools
import gc
import itertools
import multiprocessing
import operator
import os
import pickle
import queue
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
from tests.integration.executor.conftest import MARK, wait_all_gone
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.executor.tally import Tally

from farmhand import Farm, Pool, errors

_table: dict[str, int] = {}


@pytest.fixture(scope="module")
def pool(farm: Farm) -> Iterator[Pool]:
    with Pool(farm=farm) as pool:
        yield pool


def square(number: int) -> int:
    return number * number


def keywords(*args: object, **kwargs: object) -> tuple[object, object]:
    return args, kwargs


def fail_at(number: int, bad: int = 7) -> int:
    if number == bad:
        raise LookupError(f"no {number}")
    return number


def fill(tally: Tally, value: int) -> None:
    tally.add()
    _table["value"] = value


def look_up(_: object = None) -> int:
    return _table["value"]


# ---- one call


def test_apply(pool: Pool) -> None:
    assert pool.apply(keywords, (1, 2), {"callback": 3}) == ((1, 2), {"callback": 3})
    assert pool.apply(os.getpid) != os.getpid()
    with pytest.raises(LookupError, match="no 7"):
        pool.apply(fail_at, [7])


def test_an_async_result(pool: Pool, meeting: Meeting) -> None:
    result = pool.apply_async(arrive, (meeting.place, "late"))
    visitor = meeting.wait()
    assert not result.ready()
    result.wait(0.001)
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.001)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.001)
    visitor.release()
    assert result.get(PATIENCE_S) == "late"
    assert result.ready()
    assert result.successful()


def test_callbacks_come_before_the_result(pool: Pool) -> None:
    told: list[object] = []
    assert pool.apply_async(square, (3,), {}, told.append, told.append).get(PATIENCE_S) == 9
    assert told == [9]
    result = pool.apply_async(fail_at, (7,), callback=told.append, error_callback=told.append)
    result.wait(PATIENCE_S)
    assert not result.successful()
    assert repr(told[1]) == "LookupError('no 7')"


def test_a_callback_may_submit(pool: Pool) -> None:
    results: queue.Queue[int] = queue.Queue()

    def again(value: int) -> None:
        pool.apply_async(square, (value,), callback=again if value < 1000 else results.put)

    pool.apply_async(square, (2,), callback=again)
    assert results.get(timeout=PATIENCE_S) == 65536**2


def test_a_callback_that_fails_harms_nobody(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    assert pool.apply_async(square, (3,), callback=lambda _: 1 / 0).get(PATIENCE_S) == 9
    assert pool.apply(square, (4,)) == 16
    assert "ZeroDivisionError" in caplog.text


# ---- many calls


@pytest.mark.parametrize("chunksize", [None, 1, 7, 5000])
def test_map(pool: Pool, chunksize: int | None) -> None:
    assert pool.map(square, range(1000), chunksize) == [i * i for i in range(1000)]
    assert pool.map(square, iter(range(10)), chunksize) == [i * i for i in range(10)]
    assert pool.map(square, [], chunksize) == []
    assert pool.map_async(square, [], chunksize).successful()


def test_map_runs_everything_and_then_raises_the_first_error(pool: Pool, tally: Tally) -> None:
    with pytest.raises(LookupError, match="no 7"):
        pool.map(lambda i: (tally.add(), fail_at(i)), range(20), 1)
    assert tally.count == 20


def test_map_async_tells_once(pool: Pool) -> None:
    told: list[object] = []
    assert pool.map_async(square, range(3), 1, told.append, told.append).get(PATIENCE_S) == [0, 1, 4]
    failed = pool.map_async(fail_at, range(20), 1, told.append, told.append)
    failed.wait(PATIENCE_S)
    assert not failed.successful()
    assert told[0] == [0, 1, 4]
    assert [type(error) for error in told[1:]] == [LookupError]


def test_starmap(pool: Pool) -> None:
    pairs = [(i, i + 1) for i in range(100)]
    assert pool.starmap(operator.mul, pairs) == [a * b for a, b in pairs]
    assert pool.starmap(operator.mul, iter(pairs), chunksize=9) == [a * b for a, b in pairs]
    assert pool.starmap_async(operator.mul, pairs).get(PATIENCE_S) == [a * b for a, b in pairs]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_imap(pool: Pool, chunksize: int) -> None:
    assert list(pool.imap(square, range(100), chunksize)) == [i * i for i in range(100)]
    assert sorted(pool.imap_unordered(square, range(100), chunksize)) == [i * i for i in range(100)]
    assert list(pool.imap(square, [], chunksize)) == []


def test_imap_reads_an_endless_source_only_so_far(pool: Pool) -> None:
    results = pool.imap(square, itertools.count())
    assert [next(results) for _ in range(5000)] == [i * i for i in range(5000)]


def test_imap_goes_on_after_an_error(pool: Pool) -> None:
    results = pool.imap(fail_at, range(10))
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(LookupError):
        next(results)
    assert list(results) == [8, 9]


def test_imap_of_a_source_that_fails(pool: Pool) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("torn")

    results = pool.imap(square, source())
    assert next(results) == 1
    with pytest.raises(OSError, match="torn"):
        next(results)
    assert list(results) == []


def test_imap_with_a_timeout(pool: Pool, meeting: Meeting) -> None:
    results = pool.imap(arrive, [meeting.place])
    visitor = meeting.wait()
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(0.001)
    visitor.release()
    assert results.next(timeout=PATIENCE_S) is None


def test_imap_unordered_gives_what_comes_first(pool: Pool, meeting: Meeting) -> None:
    results = pool.imap_unordered(functools.partial(arrive, meeting.place), ["slow", "quick"])
    visitors = {visitor.word: visitor for visitor in (meeting.wait(), meeting.wait())}
    visitors["quick"].release()
    assert next(results) == "quick"
    visitors["slow"].release()
    assert list(results) == ["slow"]


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "imap", "imap_unordered"])
def test_a_chunksize_that_cannot_be(pool: Pool, method: str) -> None:
    with pytest.raises(ValueError, match="1\\+"):
        getattr(pool, method)(square, [1], chunksize=0)


# ---- whose farm


def test_a_pool_of_its_own(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "a pool's own farm")
    with Pool(2, fill, (tally, 5)) as pool:
        assert pool.map(look_up, range(20)) == [5] * 20
        assert 1 <= tally.count <= 2
    wait_all_gone("a pool's own farm")


def test_a_given_farm_stays_open(farm: Farm) -> None:
    with Pool(farm=farm) as pool:
        assert pool.apply(square, (3,)) == 9
    assert farm.submit(square, 3).result(PATIENCE_S) == 9


def test_a_view_brings_its_options(farm: Farm, meeting: Meeting) -> None:
    with Pool(farm=farm.options(timeout=0.2)) as pool, pytest.raises(errors.TaskTimedOut):
        pool.apply(arrive, (meeting.place,))


def test_processes_bounds_what_a_pool_has_on_a_given_farm(farm: Farm, meeting: Meeting) -> None:
    with Pool(1, farm=farm) as pool:
        result = pool.map_async(functools.partial(arrive, meeting.place), range(3))
        for word in range(3):
            visitor = meeting.wait()
            assert visitor.word == word
            assert farm.submit(square, 3).result(PATIENCE_S) == 9
            assert meeting.nobody_came()
            visitor.release()
        assert result.get(PATIENCE_S) == [0, 1, 2]


@pytest.mark.parametrize(
    "wrong", [{"processes": 0}, {"maxtasksperchild": 5}, {"initializer": print}], ids=["none", "tasks", "initializer"]
)
def test_what_cannot_be_honoured(farm: Farm, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Pool(**wrong, farm=farm)


def test_an_initializer_that_is_none() -> None:
    with pytest.raises(TypeError):
        Pool(1, initializer=5)  # type: ignore[arg-type]


# ---- ending


def test_close_and_join_wait_for_what_was_taken(farm: Farm, meeting: Meeting) -> None:
    pool = Pool(farm=farm)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    told: list[object] = []
    pool.apply_async(arrive, (meeting.place, "late"), callback=told.append)
    visitor = meeting.wait()
    pool.close()
    for refused in (pool.apply, pool.imap, pool.map):
        with pytest.raises(ValueError, match="not running"):
            refused(square, [1])
    with pytest.raises(ValueError, match="not running"):
        pool.__enter__()
    visitor.release()
    pool.join()
    assert told == ["late"]
    pool.join()


def test_terminate_stops_what_runs_and_withdraws_what_waits(farm: Farm, meeting: Meeting) -> None:
    pool = Pool(farm=farm)
    results = [pool.apply_async(arrive, (meeting.place,)) for _ in range(20)]
    visitors = [meeting.wait(), meeting.wait()]
    pool.terminate()
    for visitor in visitors:
        visitor.wait_gone()
    for result in results:
        with pytest.raises(CancelledError):
            result.get(PATIENCE_S)
    assert farm.submit(square, 3).result(PATIENCE_S) == 9


def test_terminate_tells_an_iterator(farm: Farm, meeting: Meeting) -> None:
    with Pool(1, farm=farm) as pool:
        results = pool.imap(arrive, [meeting.place] * 5)
        meeting.wait()
    for _ in range(5):
        with pytest.raises(CancelledError):
            next(results)
    assert list(results) == []


def test_a_callback_may_terminate(farm: Farm, meeting: Meeting) -> None:
    with Pool(farm=farm) as pool:
        slow = pool.apply_async(arrive, (meeting.place,))
        visitor = meeting.wait()
        pool.apply_async(square, (3,), callback=lambda _: pool.terminate())
        visitor.wait_gone()
        with pytest.raises(CancelledError):
            slow.get(PATIENCE_S)
        with pytest.raises(ValueError, match="not running"):
            pool.apply(square, (3,))


def test_a_callback_cannot_wait_for_itself(farm: Farm, caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool(farm=farm)
    pool.apply_async(square, (3,), callback=lambda _: (pool.close(), pool.join()))
    pool.close()
    pool.join()
    assert "cannot wait for itself" in caplog.text


def test_a_pool_that_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "a dropped pool's farm")
    threads = threading.active_count()
    pool = Pool(1)
    assert pool.apply(square, (3,)) == 9
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    wait_all_gone("a dropped pool's farm")
    while threading.active_count() > threads:
        pass


def test_a_task_that_kills_its_slot(pool: Pool) -> None:
    with pytest.raises(BrokenProcessPool):
        pool.apply(os._exit, (3,))
    assert pool.apply(square, (3,)) == 9


def test_it_does_not_travel(pool: Pool) -> None:
    with pytest.raises(NotImplementedError):
        pickle.dumps(pool)
    assert "Pool" in repr(pool)
