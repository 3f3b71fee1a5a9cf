"""`AsyncFarm.map`: in order, lazily, with a bounded number under way, over plain and asynchronous iterables."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from tests.integration.aio.visits import gone, soon, visit
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.executor.tally import Tally

from farmhand import AsyncFarm


def fail_at_three(i: int) -> int:
    if i == 3:
        raise ValueError("three")
    return i


async def numbers(*, end: int | None = None) -> AsyncIterator[int]:
    for i in itertools.count():
        if i == end:
            return
        yield i


class Counted:
    """How many items were taken, plain or asynchronously."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.taken += 1
        return self.taken


class CountedAsync(Counted):
    __iter__ = None  # type: ignore[assignment]

    def __aiter__(self) -> AsyncIterator[int]:
        return self  # type: ignore[return-value]

    async def __anext__(self) -> int:
        return next(self)


def test_results_in_order(runner: asyncio.Runner, farm: AsyncFarm) -> None:
    async def main() -> None:
        assert [x async for x in farm.map(pow, range(1000), [2] * 1000)] == [i**2 for i in range(1000)]
        assert [x async for x in farm.map(abs, numbers(end=700))] == list(range(700))
        assert [x async for x in farm.map(pow, numbers(), range(5))] == [1, 1, 4, 27, 256], "as zip: the shortest"
        assert [x async for x in farm.map(pow, range(5), numbers(), buffersize=1)] == [1, 1, 4, 27, 256]
        assert [x async for x in farm.map(abs, [])] == []
        assert [x async for x in farm.map(abs, numbers(end=0))] == []
        assert [x async for x in farm.map(abs, range(9), buffersize=2)] == list(range(9))

    runner.run(main())


@pytest.mark.parametrize("kind", [Counted, CountedAsync])
def test_it_is_lazy_and_bounded(runner: asyncio.Runner, farm: AsyncFarm, kind: type[Counted]) -> None:
    async def main() -> None:
        source: Any = kind()
        seen = 0
        async with aclosing(farm.map(abs, source, buffersize=20)) as results:
            assert source.taken == 0, "nothing before the first result is asked for"
            async for x in results:
                seen += 1
                assert x == seen
                assert source.taken <= seen + 20
                if seen == 300:
                    break
        taken = source.taken
        await soon(farm.submit(abs, -1))
        assert source.taken == taken

    runner.run(main())


def test_a_result_does_not_wait_for_the_next_item(runner: asyncio.Runner, farm: AsyncFarm) -> None:
    async def main() -> None:
        seen = asyncio.Event()

        async def slow() -> AsyncIterator[int]:
            yield -1
            async with asyncio.timeout(PATIENCE_S):
                await seen.wait()
            yield -2

        results = []
        async for x in farm.map(abs, slow()):
            results.append(x)
            seen.set()
        assert results == [1, 2]

    runner.run(main())


def test_errors_come_in_their_place(runner: asyncio.Runner, farm: AsyncFarm) -> None:
    async def bad() -> AsyncIterator[int]:
        yield -1
        raise LookupError("source")

    def bad_too() -> Iterator[int]:
        yield -1
        raise LookupError("source")

    async def main() -> None:
        for source in (range(10), numbers()):
            seen = []
            with pytest.raises(ValueError, match="three"):  # noqa: PT012 - it raises when it is asked
                async for x in farm.map(fail_at_three, source):
                    seen.append(x)  # noqa: PERF401 - what came before the error
            assert seen == [0, 1, 2]
        for make in (bad, bad_too):
            with pytest.raises(LookupError, match="source"):
                assert [x async for x in farm.map(abs, make())]
        for size in (0, -1):
            with pytest.raises(ValueError, match="buffersize"):
                farm.map(abs, [1], buffersize=size)
        with pytest.raises(TypeError, match="buffersize"):
            farm.map(abs, [1], buffersize=1.0)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            assert [x async for x in farm.map(abs, 5)]  # type: ignore[arg-type]

    runner.run(main())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_leaving_stops_what_is_under_way(
    runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting, tally: Tally, asynchronous: bool
) -> None:
    def work(i: int) -> int:
        if i:
            arrive(place)
            tally.add()
        return i

    place = meeting.place

    async def main() -> None:
        source: Any = numbers(end=30) if asynchronous else range(30)
        async with aclosing(farm.map(work, source)) as results:
            assert await soon(anext(results)) == 0
            visitors = [await visit(meeting), await visit(meeting)]
        for visitor in visitors:
            await gone(visitor)
        assert await soon(farm.submit(abs, -1)) == 1
        assert tally.count == 0

    runner.run(main())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_cancelling_who_takes_the_results(
    runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting, asynchronous: bool
) -> None:
    async def main() -> None:
        source: Any = [meeting.place] * 9

        async def places() -> AsyncIterator[Any]:
            for place in source:
                yield place

        async def takes() -> None:
            async for _ in farm.map(arrive, places() if asynchronous else source):
                raise AssertionError("no result comes")

        task = asyncio.create_task(takes())
        visitors = [await visit(meeting), await visit(meeting)]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for visitor in visitors:
            await gone(visitor)
        assert await soon(farm.submit(abs, -1)) == 1

    runner.run(main())


def test_large_items(runner: asyncio.Runner, farm: AsyncFarm) -> None:
    async def main() -> None:
        sizes = [3_000_000 + i for i in range(8)]
        assert [x async for x in farm.map(len, (bytes(size) for size in sizes), buffersize=3)] == sizes

    runner.run(main())
