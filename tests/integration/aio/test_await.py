"""`await` of an ordinary farm's future in a running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.integration.aio.visits import gone, soon, until, visit
from tests.integration.executor.meeting import Meeting, arrive
from tests.integration.executor.tally import Tally

from farmhand import Farm


@pytest.fixture(scope="module")
def plain(nothing_left_behind: None) -> Iterator[Farm]:
    with Farm(max_workers=2, output=False) as farm:
        yield farm


def fail(text: str) -> None:
    raise ValueError(text)


def test_await(plain: Farm) -> None:
    async def main() -> None:
        future = plain.submit(pow, 2, 3)
        assert await future == 8
        assert await future == 8, "when it is done too"
        assert future.result() == 8
        with pytest.raises(ValueError, match="no"):
            await plain.submit(fail, "no")
        assert await asyncio.gather(*[plain.submit(abs, -i) for i in range(50)]) == list(range(50))
        cancelled = plain.submit(abs, -1)
        if cancelled.cancel():
            with pytest.raises(asyncio.CancelledError):
                await cancelled

    asyncio.run(main())


def test_two_loops_one_after_the_other(plain: Farm) -> None:
    future = plain.submit(abs, -4)

    async def main() -> int:
        return await future

    assert asyncio.run(main()) == asyncio.run(main()) == 4


def test_cancelling_the_await_stops_the_task(plain: Farm, meeting: Meeting, tally: Tally) -> None:
    async def waits(farm_future: object) -> None:
        await farm_future  # type: ignore[misc]

    async def main() -> None:
        futures = [plain.submit(arrive, meeting.place) for _ in range(2)]
        visitors = [await visit(meeting), await visit(meeting)]
        waiting = plain.submit(tally.add)
        await until(lambda: all(future.running() for future in futures))
        tasks = [asyncio.create_task(waits(future)) for future in (waiting, *futures)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await soon(asyncio.wait(tasks))
        assert all(task.cancelled() for task in tasks)
        assert waiting.cancelled()
        for visitor in visitors:
            await gone(visitor)
        assert await soon(plain.submit(abs, -1)) == 1
        assert tally.count == 0

    asyncio.run(main())


def test_a_loop_that_ended_harms_nobody(plain: Farm, meeting: Meeting) -> None:
    async def main() -> None:
        shielded.append(asyncio.shield(plain.submit(arrive, meeting.place)))
        await asyncio.sleep(0)
        visitors.append(await visit(meeting))

    shielded: list[object] = []
    visitors: list[object] = []
    asyncio.run(main())
    visitors[0].release()  # type: ignore[attr-defined]
    assert plain.submit(abs, -1).result() == 1
