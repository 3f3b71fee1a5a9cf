"""Futures as arguments: values go from slot to slot, failures from task to task."""

from __future__ import annotations

import asyncio
import functools
import gc
import operator
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.executor.calls import Box, append, fail, grow, inc, produce, unbox
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive

from farmhand import AsyncFarm, Farm, FarmFuture, errors

MB = 1024 * 1024


@pytest.fixture(scope="module", params=["shared memory", "network"])
def any_farm(request: pytest.FixtureRequest, nothing_left_behind: None) -> Iterator[Farm]:
    with Farm(max_workers=2, output=False, shared_memory=request.param == "shared memory") as farm:
        assert list(farm.map(inc, range(300)))[-1] == 300  # so that its duration is known and chains travel together
        yield farm


def spool_of(farm: Farm) -> Path:
    assert farm._embedded is not None
    return Path(farm._embedded.wait_ready().spool)


def is_left(future: FarmFuture[Any]) -> bool:
    return "on the farm" in repr(future)


def large_files(farm: Farm) -> list[int]:
    return [path.stat().st_size for path in spool_of(farm).rglob("*") if path.is_file() and path.stat().st_size >= MB]


def wait_until(farm: Farm, holds: Callable[[], bool]) -> None:
    """Ask the farm until it holds: what is removed goes a moment later."""
    for _ in range(3000):
        if holds():
            return
        assert farm.status()
    raise AssertionError("it never came to hold")


def stored(farm: Farm) -> int:
    count: int = farm.status()["engine"]["storage"]["blob"]["bytes"]
    return count


def test_wherever_pickling_finds_them(any_farm: Farm) -> None:
    one, two = any_farm.submit(inc, 0), any_farm.submit(inc, 1)
    given = any_farm.submit(lambda *args, **named: (args, named), one, [two, (one,)], {"k": {two}}, key=Box(one))
    args, named = given.result(PATIENCE_S)
    assert args == (1, [2, (1,)], {"k": {2}})
    assert named["key"].held == 1
    assert any_farm.options(name="view").submit(unbox, Box(Box(two))).result(PATIENCE_S).held == 2
    assert list(any_farm.map(operator.add, [one, two], [two, 10])) == [3, 12]


def test_a_chain_and_a_tree(any_farm: Farm) -> None:
    last = any_farm.submit(inc, 0)
    for _ in range(999):
        last = any_farm.submit(inc, last)
    level = [any_farm.submit(inc, number) for number in range(256)]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [any_farm.submit(operator.add, one, other) for one, other in pairs]
    assert last.result(PATIENCE_S) == 1000
    assert level[0].result(PATIENCE_S) == sum(range(1, 257))


def test_one_call_joins_very_many(any_farm: Farm) -> None:
    parts = [any_farm.submit(produce, 100_000) for _ in range(200)]  # 20 MB, each small enough for a message
    assert any_farm.submit(lambda given: sum(map(len, given)), parts).result(PATIENCE_S) == 20_000_000


def test_each_call_has_a_copy_of_its_own(any_farm: Farm) -> None:
    first = any_farm.submit(list, (1,))
    ways = [any_farm.submit(append, first, number) for number in range(20)]
    again = any_farm.submit(append, ways[3], 9)
    assert [way.result(PATIENCE_S) for way in ways] == [[1, number] for number in range(20)]
    assert again.result(PATIENCE_S) == [1, 3, 9]
    assert first.result(PATIENCE_S) == [1]


def test_a_future_that_is_done(any_farm: Farm) -> None:
    small, large = any_farm.submit(list, (1, 2)), any_farm.submit(produce, 2 * MB)
    assert small.result(PATIENCE_S) == [1, 2]
    assert len(large.result(PATIENCE_S)) == 2 * MB
    assert any_farm.submit(len, small).result(PATIENCE_S) == 2
    assert [any_farm.submit(len, large).result(PATIENCE_S) for _ in range(2)] == [2 * MB] * 2


def test_a_large_value_does_not_visit_the_client(any_farm: Farm) -> None:
    first = any_farm.submit(produce, 10 * MB)
    second = any_farm.submit(grow, first)
    third = any_farm.submit(grow, second)
    before = any_farm._driver.connection.bytes_in
    assert any_farm.submit(len, third).result(PATIENCE_S) == 10 * MB + 2
    late = any_farm.submit(len, first)  # the value is there, and nobody has asked for it
    assert late.result(PATIENCE_S) == 10 * MB
    assert any_farm._driver.connection.bytes_in - before < MB
    if any_farm._driver.config.spool:
        assert sorted(large_files(any_farm)) == [10 * MB + n for n in sorted(map(overhead, (first, second, third)))]
    assert third.result(PATIENCE_S)[-2:] == b"\x02\x02"


def overhead(future: FarmFuture[bytes]) -> int:
    assert future._source is not None
    assert future._source.large is not None
    return future._source.large.size - 10 * MB


def test_a_large_value_goes_when_nobody_needs_it(any_farm: Farm, meeting: Meeting) -> None:
    wait_until(any_farm, lambda: not large_files(any_farm) and stored(any_farm) < MB)
    first = any_farm.submit(produce, 5 * MB)
    waiting = any_farm.submit(lambda data, _: len(data), first, any_farm.submit(arrive, meeting.place))
    visitor = meeting.wait()
    wait_until(any_farm, functools.partial(is_left, first))
    del first  # the call still needs it
    gc.collect()
    visitor.release()
    assert waiting.result(PATIENCE_S) == 5 * MB
    wait_until(any_farm, lambda: not large_files(any_farm) and stored(any_farm) < MB)


def test_a_failure_reaches_all_that_need_it(any_farm: Farm) -> None:
    first = any_farm.submit(fail)
    chain = [any_farm.submit(inc, first)]
    for _ in range(200):
        chain.append(any_farm.submit(inc, chain[-1]))
    with pytest.raises(
        errors.InputFailed, match=r"inc: did not run, because its input 'fail' failed: ValueError: no value"
    ) as caught:
        chain[-1].result(PATIENCE_S)
    assert isinstance(caught.value.__cause__, ValueError)
    done, pending = wait(chain, PATIENCE_S)
    assert (len(done), len(pending)) == (len(chain), 0)
    assert isinstance(any_farm.submit(inc, first).exception(PATIENCE_S), errors.InputFailed)  # also when that is known
    behind = any_farm.submit(fail, any_farm.submit(inc, 1))
    assert isinstance(behind.exception(PATIENCE_S), ValueError)


def test_cancelling_an_input(any_farm: Farm, meeting: Meeting) -> None:
    blockers = [any_farm.submit(arrive, meeting.place) for _ in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    first = any_farm.submit(inc, 1)
    second = any_farm.submit(inc, first)
    third = any_farm.submit(inc, second)
    assert first.cancel()
    for future in (second, third):
        with pytest.raises(CancelledError):
            future.result(PATIENCE_S)
        assert future.cancelled()
    assert any_farm.submit(inc, second).exception is not None
    for visitor in visitors:
        visitor.release()
    wait(blockers, PATIENCE_S)


def test_killing_an_input(any_farm: Farm, meeting: Meeting) -> None:
    first = any_farm.submit(arrive, meeting.place)
    second = any_farm.submit(inc, first)
    meeting.wait()
    wait_until(any_farm, first.running)
    assert first.kill(PATIENCE_S)
    error = second.exception(PATIENCE_S)
    assert isinstance(error, errors.InputFailed)
    assert isinstance(error.__cause__, errors.TaskKilled)


def test_an_input_that_crashes_runs_again(any_farm: Farm, tally: Any) -> None:
    first = any_farm.submit(crash_once, tally.add)
    assert any_farm.submit(inc, first).result(PATIENCE_S) == 8


def crash_once(count: Callable[[], int]) -> int:
    if count() == 1:
        os._exit(3)
    return 7


def test_a_value_that_has_gone_is_named(any_farm: Farm) -> None:
    first = any_farm.submit(produce, 2 * MB)
    assert any_farm.submit(len, first).result(PATIENCE_S) == 2 * MB
    source = first._source
    assert source is not None
    any_farm._driver.forget(source.large)
    wait_until(any_farm, lambda: not large_files(any_farm) and stored(any_farm) < MB)
    with pytest.raises(errors.InputLost, match="the result of 'produce' is gone from the farm"):
        any_farm.submit(len, first).result(PATIENCE_S)


def test_what_cannot_be_an_input(any_farm: Farm) -> None:
    future = any_farm.submit(inc, 1)
    with pytest.raises(TypeError, match="give it to a call of its Farm as an argument"):
        pickle.dumps(future)
    with pytest.raises(TypeError, match="give it to a call of its Farm as an argument"):
        any_farm.submit(lambda: future)


def test_a_future_of_another_farm(any_farm: Farm, meeting: Meeting) -> None:
    blocked = any_farm.submit(arrive, meeting.place)
    visitor = meeting.wait()
    with Farm(max_workers=1, output=False) as other, pytest.raises(errors.BadOption, match="belongs to another Farm"):
        other.submit(inc, blocked)
    visitor.release()
    blocked.result(PATIENCE_S)


def test_what_only_served_stays_when_the_farm_is_closed() -> None:
    with Farm(max_workers=2, output=False, shared_memory=False) as farm:
        first, other = farm.submit(produce, 3 * MB), farm.submit(produce, 2 * MB)
        last = farm.submit(grow, first)
    assert len(other.result(0)) == 2 * MB
    assert len(last.result(0)) == 3 * MB + 1
    with pytest.raises(errors.FarmClosed, match="ask for the result while the farm is open"):
        first.result(0)


async def _asynchronously() -> None:
    async with AsyncFarm(max_workers=2, output=False) as farm:
        first = farm.submit(inc, 1)
        large = farm.submit(np.ones, 300_000)
        second = farm.submit(inc, first)
        assert await farm.submit(operator.add, second, [first][0]) == 5
        assert await farm.submit(float, farm.submit(np.sum, large)) == 300_000
        assert await farm.submit(inc, await_done := farm.submit(inc, 1)) == 3
        assert await farm.submit(inc, await_done) == 3
        with pytest.raises(errors.InputFailed):
            await farm.submit(inc, farm.submit(fail))


def test_with_asyncio() -> None:
    asyncio.run(_asynchronously())


def test_numpy_results_as_inputs(any_farm: Farm) -> None:
    matrix = any_farm.submit(np.ones, (400, 400))
    assert any_farm.submit(np.sum, any_farm.submit(np.dot, matrix, matrix)).result(PATIENCE_S) == 400**3
