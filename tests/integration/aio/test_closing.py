"""Opening and closing an `AsyncFarm`: the loop goes on, an exception or a cancellation does not hang."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading

import psutil
import pytest
from tests.integration.aio.visits import gone, soon, until, visit
from tests.integration.executor.conftest import Script, wait_all_gone
from tests.integration.executor.meeting import PATIENCE_S, Meeting, Place, arrive
from tests.integration.executor.tally import Tally

from farmhand import AsyncFarm, errors


def arrive_and_add(place: Place, tally: Tally) -> None:
    arrive(place)
    tally.add()


def test_leaving_waits_for_what_was_submitted_and_the_loop_goes_on(meeting: Meeting, tally: Tally) -> None:
    async def main() -> None:
        async def use() -> None:
            async with AsyncFarm(max_workers=1, output=False) as farm:
                farm.submit(arrive, meeting.place)
                futures.extend(farm.submit(tally.add) for _ in range(20))
                futures.append(farm.submit(len, [bytes(300_000)]))

        futures: list[asyncio.Future[int]] = []
        using = asyncio.create_task(use())
        visitor = await visit(meeting)
        await asyncio.sleep(0)
        assert not using.done()
        visitor.release()
        await soon(using)
        assert all(future.done() for future in futures)
        assert futures[-1].result() == 1
        assert tally.count == 20

    asyncio.run(main())


def test_opened_by_await_and_shut_down(meeting: Meeting, tally: Tally) -> None:
    async def main() -> None:
        farm = AsyncFarm(max_workers=1, output=False)
        with pytest.raises(RuntimeError, match="not open"):
            farm.submit(abs, -1)
        assert await farm is farm
        with pytest.raises(RuntimeError, match="open already"):
            await farm
        running = farm.submit(arrive, meeting.place, "ran")
        visitor = await visit(meeting)
        await until(running.running)
        waiting = [farm.submit(tally.add) for _ in range(30)]
        closing = asyncio.create_task(farm.shutdown(cancel_futures=True))
        await asyncio.sleep(0)
        assert all(future.cancelled() for future in waiting)
        visitor.release()
        await soon(closing)
        assert await running == "ran"
        await soon(farm.shutdown())
        with pytest.raises(RuntimeError, match="after shutdown"):
            farm.submit(abs, -1)
        assert tally.count == 0

    asyncio.run(main())


def test_an_exception_stops_everything(meeting: Meeting, tally: Tally) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with AsyncFarm(max_workers=1, output=False) as farm:
                running = farm.submit(arrive, meeting.place)
                waiting = farm.submit(tally.add)
                visitor = await visit(meeting)
                raise ZeroDivisionError
        assert running.cancelled()
        assert waiting.cancelled()
        await gone(visitor)

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert tally.count == 0


def test_a_cancellation_stops_everything(meeting: Meeting) -> None:
    async def main() -> None:
        async def use() -> None:
            async with AsyncFarm(max_workers=1, output=False) as farm:
                await farm.submit(arrive, meeting.place)

        using = asyncio.create_task(use())
        visitor = await visit(meeting)
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(using)
        await gone(visitor)

    asyncio.run(main())


def test_cancelling_the_wait_at_the_end_stops_everything(meeting: Meeting) -> None:
    async def main() -> None:
        left = asyncio.Event()

        async def use() -> None:
            async with AsyncFarm(max_workers=1, output=False) as farm:
                farm.submit(arrive, meeting.place)
                left.set()

        using = asyncio.create_task(use())
        visitor = await visit(meeting)
        await soon(left.wait())
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(using)
        await gone(visitor)

    asyncio.run(main())


def test_on_cancel_finish_lets_what_runs_end(meeting: Meeting, tally: Tally) -> None:
    async def main() -> None:
        async with AsyncFarm(max_workers=1, output=False, on_cancel="finish") as farm:
            future = farm.submit(arrive_and_add, meeting.place, tally)
            visitor = await visit(meeting)
            await until(future.running)
            waiting = farm.submit(tally.add)
            future.cancel()
            waiting.cancel()
            visitor.release()
        assert tally.count == 1

    asyncio.run(main())
    with pytest.raises(errors.BadOption):
        AsyncFarm(on_cancel="maybe")


def test_opening_does_not_block_the_loop_and_can_be_cancelled() -> None:
    """An engine that accepts and says nothing keeps `Farm` waiting; only a loop that runs can accept."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)

            async def use() -> None:
                async with AsyncFarm(f"nats://{'t' * 40}@127.0.0.1:{server.getsockname()[1]}"):
                    raise AssertionError("nobody answers")

            using = asyncio.create_task(use())
            connection, _ = await soon(loop.sock_accept(server))
            using.cancel()
            with pytest.raises(asyncio.CancelledError):
                await using
            connection.close()

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "farmhand-aio":
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_a_farm_that_opens_for_nobody_is_closed(nothing_left_behind: None) -> None:
    async def main() -> None:
        opening = asyncio.ensure_future(AsyncFarm(max_workers=1).__aenter__())
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    before = set(psutil.Process().children())
    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "farmhand-aio":
            thread.join(PATIENCE_S)
    _, alive = psutil.wait_procs(set(psutil.Process().children()) - before, timeout=PATIENCE_S)
    assert not alive


def test_what_opening_raises() -> None:
    async def main(farm: AsyncFarm) -> None:
        async with farm:
            pass

    with pytest.raises(ValueError, match="max_workers"):
        asyncio.run(main(AsyncFarm(max_workers=0)))
    with pytest.raises(errors.BadAddress):
        asyncio.run(main(AsyncFarm("ftp://somewhere")))


PROGRAM = """
    import asyncio, sys, time
    from farmhand import AsyncFarm

    def forever():
        print("runs", flush=True)
        time.sleep(3600)

    async def main():
        async with AsyncFarm(max_workers=1) as farm:
            await farm.submit(forever)

    if __name__ == "__main__":
        asyncio.run(main())
"""


def test_ctrl_c_ends_the_program(script: Script) -> None:
    import signal

    process: subprocess.Popen[str] = script.start(PROGRAM)
    assert process.stdout is not None
    assert "runs" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert "never retrieved" not in err
    wait_all_gone(script.mark)
