"""Tools that accept an Executor or its futures, with a Farm as it is: dask, asyncio, tqdm, pandas and numpy, pytest-xdist."""

from __future__ import annotations

import asyncio
import io
import os
from concurrent.futures import as_completed

import dask
import dask.array
import dask.bag
import numpy as np
import pandas as pd
import pytest
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tqdm import tqdm

from farmhand import Farm


def square(number: int) -> int:
    return number * number


def fail(number: int) -> int:
    raise LookupError(f"no {number}")


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.groupby("field", as_index=False)["yield"].mean()


# ---- dask


@dask.delayed
def where(*_: object) -> int:
    return os.getpid()


def test_dask_runs_its_tasks_on_the_farm(farm: Farm) -> None:
    with dask.config.set(scheduler=farm):
        pids = dask.compute(*(where(where(i)) for i in range(6)))
    assert os.getpid() not in pids


def test_dask_computes_arrays_and_bags(farm: Farm) -> None:
    data = np.arange(10_000.0).reshape(100, 100)
    array = dask.array.from_array(data, chunks=(25, 50))
    with dask.config.set(scheduler=farm):
        np.testing.assert_allclose((array @ array.T).sum(axis=0).compute(), (data @ data.T).sum(axis=0))
        assert dask.bag.from_sequence(range(100), npartitions=4).map(square).sum().compute() == 328350
    assert array.sum().compute(scheduler=farm) == data.sum()


def test_dask_raises_what_a_task_raised(farm: Farm) -> None:
    with dask.config.set(scheduler=farm), pytest.raises(LookupError, match="no 3"):
        dask.delayed(fail)(3).compute()


# ---- asyncio


def test_a_loop_awaits_calls_on_the_farm(farm: Farm, meeting: Meeting) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        slow = loop.run_in_executor(farm, arrive, meeting.place, "slow")
        visitor = await asyncio.to_thread(meeting.wait)
        calls = [loop.run_in_executor(farm, square, i) for i in range(100)]
        assert await asyncio.gather(*calls) == [i * i for i in range(100)]
        with pytest.raises(LookupError, match="no 3"):
            await loop.run_in_executor(farm, fail, 3)
        assert not slow.done()
        visitor.release()
        assert await slow == "slow"

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_cancelling_the_await_withdraws_what_waits(farm: Farm, meeting: Meeting) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first = [loop.run_in_executor(farm, arrive, meeting.place, i) for i in range(2)]
        visitors = [await asyncio.to_thread(meeting.wait) for _ in range(2)]
        waiting = farm.submit(arrive, meeting.place, "unwanted")
        second = asyncio.wrap_future(waiting)  # as run_in_executor does it
        second.cancel()
        await asyncio.sleep(0)  # a round of the loop, in which it tells the farm
        assert waiting.cancelled()
        for visitor in visitors:
            visitor.release()
        assert await asyncio.gather(*first) == [0, 1]

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


# ---- tqdm


def test_a_progress_bar_over_futures(farm: Farm) -> None:
    screen = io.StringIO()
    futures = [farm.submit(square, i) for i in range(50)]
    bar = tqdm(as_completed(futures), total=len(futures), file=screen, mininterval=0)
    assert sorted(future.result() for future in bar) == [i * i for i in range(50)]
    assert "50/50" in screen.getvalue()


def test_a_progress_bar_over_a_map(farm: Farm) -> None:
    screen = io.StringIO()
    assert list(tqdm(farm.map(square, range(50)), total=50, file=screen)) == [i * i for i in range(50)]
    assert "100%" in screen.getvalue()


# ---- numpy and pandas


@pytest.mark.parametrize("rows", [10, 300_000], ids=["small", "large"])
def test_frames_travel_both_ways(farm: Farm, rows: int) -> None:
    frame = pd.DataFrame(
        {
            "field": np.where(np.arange(rows) % 2, "north", "south"),
            "yield": np.linspace(0.0, 1.0, rows),
            "day": pd.date_range("2026-01-01", periods=rows, freq="s"),
        }
    )
    pd.testing.assert_frame_equal(farm.submit(pd.DataFrame.copy, frame).result(PATIENCE_S), frame)
    pd.testing.assert_frame_equal(farm.submit(summary, frame).result(PATIENCE_S), summary(frame))


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "large"])
def test_arrays_travel_both_ways(farm: Farm, size: int) -> None:
    arrays = [np.arange(size) * i for i in range(4)]
    for sent, came in zip(arrays, farm.map(np.negative, arrays), strict=True):
        np.testing.assert_array_equal(came, -sent)
        came[0] = 5  # it is the caller's own


# ---- pytest-xdist

A_PROJECT = """
    import os
    import pytest
    from farmhand import Farm

    @pytest.fixture(scope="module")
    def farm():
        with Farm(max_workers=2) as farm:
            yield farm

    @pytest.mark.parametrize("number", range(8))
    def test_shared(farm, number):
        assert list(farm.map(lambda i: i * number, range(10))) == [i * number for i in range(10)]

    def test_own():
        with Farm(max_workers=1) as farm:
            assert farm.submit(os.getpid).result() != os.getpid()
            with Farm(max_workers=1) as other:
                assert farm.submit(os.getpid).result() != other.submit(os.getpid).result()
"""

RUN_IT = """
    import sys
    import pytest

    sys.exit(pytest.main(["-n", "2", "-W", "error", "-p", "no:cacheprovider", "test_one.py", "test_two.py"]))
"""


def test_tests_with_farms_run_side_by_side(script: Script) -> None:
    script.file("pytest.ini", "[pytest]\n")
    script.file("test_one.py", A_PROJECT)
    script.file("test_two.py", A_PROJECT)
    assert "18 passed" in script.run(RUN_IT).stdout
