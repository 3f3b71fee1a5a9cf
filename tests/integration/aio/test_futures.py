"""`AsyncFarm.submit`: an `asyncio.Future` at once, that asyncio's own tools take, and no blocking of the loop."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import sys
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.integration.aio.visits import gone, soon, until, visit
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.executor.tally import Tally

from farmhand import AsyncFarm, errors
from farmhand.client.awaiting import AsyncFuture
from farmhand.model import limits


def keywords(*args: object, **kwargs: object) -> tuple[object, object]:
    return args, kwargs


def fail(text: str) -> None:
    raise ValueError(text)


def stop_iteration() -> None:
    raise StopIteration(5)


def test_submit_returns_at_once_and_is_awaited(runner: asyncio.Runner, farm: AsyncFarm) -> None:
    async def main() -> None:
        future = farm.submit(pow, 2, 5)
        assert isinstance(future, asyncio.Future)
        assert not future.done()
        assert await soon(future) == 32
        assert future.result() == 32
        assert await future == 32, "again"
        given = dict.fromkeys(("fn", "self", "timeout", "name", "buffersize"), 1)
        assert await soon(farm.submit(keywords, 1, **given)) == ((1,), given)

    runner.run(main())


def test_errors_come_from_the_await(runner: asyncio.Runner, farm: AsyncFarm) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="no") as caught:
            await soon(farm.submit(fail, "no"))
        assert "on node" in caught.value.__notes__[-1]
        with pytest.raises(RuntimeError, match="StopIteration"):
            await soon(farm.submit(stop_iteration))
        with pytest.raises(TypeError, match="pickle"):
            await soon(farm.submit(len, threading.Lock()))  # type: ignore[arg-type]

    runner.run(main())


def test_gather_wait_and_shield(runner: asyncio.Runner, farm: AsyncFarm) -> None:
    async def main() -> None:
        assert await soon(asyncio.gather(*[farm.submit(pow, i, 2) for i in range(100)])) == [i**2 for i in range(100)]
        done, waiting = await asyncio.wait([farm.submit(abs, -i) for i in range(20)], timeout=PATIENCE_S)
        assert len(done) == 20
        assert not waiting
        assert await soon(asyncio.shield(farm.submit(abs, -1))) == 1
        mixed = await soon(asyncio.gather(farm.submit(fail, "x"), farm.submit(abs, -2), return_exceptions=True))
        assert isinstance(mixed[0], ValueError)
        assert mixed[1] == 2

    runner.run(main())


def test_a_view_with_options(runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting) -> None:
    async def main() -> None:
        with pytest.raises(errors.TaskTimedOut):
            await soon(farm.options(timeout=0.2).submit(arrive, meeting.place))
        view = farm.options(priority=5, name="urgent").options(name="more urgent")
        assert await soon(view.submit(abs, -1)) == 1
        assert [x async for x in view.map(abs, [-1, -2])] == [1, 2]
        with pytest.raises(errors.BadOption):
            farm.options(name=5)

    runner.run(main())


class Gate:
    """Its pickling waits until the event loop opens it."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __reduce__(self) -> Any:
        assert self.opened.wait(PATIENCE_S), "the loop was blocked"
        return int, (7,)


def test_packing_of_what_may_be_large_does_not_block_the_loop(runner: asyncio.Runner, farm: AsyncFarm) -> None:
    async def main() -> None:
        gates = [Gate(), Gate()]
        futures = [farm.submit(abs, gates[0]), farm.submit(keywords, given=[gates[1]])]  # type: ignore[arg-type]
        for gate in gates:
            gate.opened.set()
        assert await soon(asyncio.gather(*futures)) == [7, ((), {"given": [7]})]
        never = Gate()
        withdrawn = farm.submit(abs, never)  # type: ignore[arg-type]
        withdrawn.cancel()
        never.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await withdrawn
        assert await soon(farm.submit(len, bytes(20_000_000))) == 20_000_000

    runner.run(main())


def test_many_outcomes_wake_the_loop_once(
    runner: asyncio.Runner, farm: AsyncFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        woken: list[Any] = []
        plain = loop.call_soon_threadsafe

        def wake(callback: Any, *args: Any, **more: Any) -> Any:
            woken.append(callback)
            return plain(callback, *args, **more)

        monkeypatch.setattr(loop, "call_soon_threadsafe", wake)
        futures = [farm.submit(abs, -i) for i in range(2500)]
        sources = [future._source for future in futures]
        assert not cf.wait([s for s in sources if s], PATIENCE_S).not_done, "while the loop does nothing"
        assert await soon(asyncio.gather(*futures)) == list(range(2500))
        assert [callback.__name__ for callback in woken].count("_deliver") == 1

    runner.run(main())


def test_a_loop_that_is_busy_with_outcomes_runs_others_too(runner: asyncio.Runner, farm: AsyncFarm) -> None:
    async def main() -> None:
        futures = [farm.submit(abs, -i) for i in range(5000)]
        cf.wait([future._source for future in futures if future._source], PATIENCE_S)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 < sum(future.done() for future in futures) < 5000
        await soon(asyncio.gather(*futures))

    runner.run(main())


def test_as_completed(runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting) -> None:
    async def main() -> None:
        slow = farm.submit(arrive, meeting.place, -1)
        visitor = await visit(meeting)
        quick = [farm.submit(abs, -i) for i in range(20)]
        seen: list[asyncio.Future[int]] = []
        async for future in farm.as_completed([slow, *quick]):
            assert future.done()
            seen.append(future)
            if len(seen) == 20:
                assert slow not in seen
                visitor.release()
        assert seen[-1] is slow
        assert set(seen[:20]) == set(quick)
        assert [f async for f in farm.as_completed([])] == []

        left = farm.submit(arrive, meeting.place)
        async for _ in farm.as_completed([left, farm.submit(abs, -1)]):
            break
        (await visit(meeting)).release()
        await soon(left)

    runner.run(main())


# ---- cancelling


def test_cancelling_the_awaiting_task_withdraws_what_waits(
    runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting, tally: Tally
) -> None:
    async def main() -> None:
        blockers = [farm.submit(arrive, meeting.place) for _ in range(2)]
        visitors = [await visit(meeting), await visit(meeting)]
        futures = [farm.options(name="waits").submit(tally.add) for _ in range(200)]

        async def waits() -> None:
            await asyncio.gather(*futures)

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(future.cancelled() for future in futures)
        for visitor in visitors:
            visitor.release()
        await soon(asyncio.gather(*blockers))
        assert await soon(farm.submit(abs, -1)) == 1
        # The order to drop what a node had in hand races with the end of the blockers; nothing else may have run.
        assert tally.count <= 2 * limits.BATCHES_PER_SLOT

    runner.run(main())


def test_cancelling_the_awaiting_task_kills_what_runs(
    runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting
) -> None:
    async def main() -> None:
        future = farm.submit(arrive, meeting.place)
        visitor = await visit(meeting)
        await until(future.running)

        async def waits() -> None:
            await future

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone(visitor)
        assert await soon(farm.submit(abs, -1)) == 1

    runner.run(main())


def test_a_time_limit_of_asyncio_stops_the_task(runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):  # noqa: PT012 - the block is what is tested
            async with asyncio.timeout(None) as limit:
                future = farm.submit(arrive, meeting.place)
                visitor = await visit(meeting)
                limit.reschedule(asyncio.get_running_loop().time())
                await future
        await gone(visitor)

    runner.run(main())


def test_a_task_group_stops_the_others_when_one_fails(
    runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting
) -> None:
    async def call(future: asyncio.Future[Any]) -> Any:
        return await future

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the block is what is tested
            async with asyncio.TaskGroup() as group:
                group.create_task(call(farm.submit(arrive, meeting.place)))
                visitor = await visit(meeting)
                group.create_task(call(farm.submit(fail, "one")))
        assert isinstance(caught.value.exceptions[0], ValueError)
        await gone(visitor)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call(farm.submit(abs, -i))) for i in range(50)]
        assert [task.result() for task in tasks] == list(range(50))

    runner.run(main())


def test_cancelling_a_gather_stops_all_of_it(runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting) -> None:
    async def main() -> None:
        gathered = asyncio.gather(*[farm.submit(arrive, meeting.place) for _ in range(2)])
        visitors = [await visit(meeting), await visit(meeting)]
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        for visitor in visitors:
            await gone(visitor)

    runner.run(main())


def test_shield_leaves_the_task_alone(runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting) -> None:
    async def main() -> None:
        future = farm.submit(arrive, meeting.place, "whole")
        visitor = await visit(meeting)
        outer = asyncio.shield(future)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        visitor.release()
        assert await soon(future) == "whole"

    runner.run(main())


def test_kill_waits_for_the_confirmation(runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting) -> None:
    async def main() -> None:
        future = farm.submit(arrive, meeting.place)
        visitor = await visit(meeting)
        await until(future.running)
        assert await soon(future.kill()) is True
        assert isinstance(future.exception(), errors.TaskKilled)
        await gone(visitor)
        done = farm.submit(abs, -1)
        await soon(done)
        assert await done.kill() is False

    runner.run(main())


def test_cancel_at_any_moment_frees_the_slot(runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting) -> None:
    async def main() -> None:
        for round_ in range(60):
            future = farm.submit(arrive, meeting.place)
            for _ in range(round_ % 20):
                await asyncio.sleep(0)
            assert future.cancel() is True
            assert future.cancel() is False
        assert await soon(asyncio.gather(*[farm.submit(abs, -i) for i in range(10)])) == list(range(10))

    runner.run(main())


def test_with_uvloop(nothing_left_behind: None, meeting: Meeting) -> None:
    if sys.platform == "win32":
        pytest.skip("uvloop does not exist there")
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def main() -> None:
            async with AsyncFarm(max_workers=1, output=False) as farm:
                assert await soon(asyncio.gather(*[farm.submit(abs, -i) for i in range(100)])) == list(range(100))
                future = farm.submit(arrive, meeting.place)
                visitor = await visit(meeting)
                future.cancel()
                await gone(visitor)

        runner.run(main())


def test_what_it_shows(runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting) -> None:
    async def main() -> None:
        assert repr(farm).startswith("<AsyncFarm embedded")
        assert "not open" in repr(AsyncFarm())
        assert farm.session in repr(farm)
        assert (await farm.status())["nodes"]
        future: AsyncFuture[Any] = farm.options(name="seen").submit(arrive, meeting.place)
        assert "AsyncFuture" in repr(future)
        assert "name=seen" in repr(future)
        (await visit(meeting)).release()
        await soon(future)
        assert "finished" in repr(future)

    def coroutine() -> Coroutine[Any, Any, None]:
        return main()

    runner.run(coroutine())
