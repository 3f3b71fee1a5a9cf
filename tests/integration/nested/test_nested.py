"""Tasks that submit tasks: what their Executor does, on one slot and on two nodes."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ALL_COMPLETED, CancelledError, Future, as_completed, wait
from typing import Any

import pytest
from tests.integration.executor.meeting import PATIENCE_S, Meeting, Place, arrive

from farmhand import AsyncFarm, Farm, errors
from farmhand.model import limits


def double(number: int) -> int:
    return 2 * number


def depth(levels: int) -> int:
    return 0 if not levels else 1 + Farm.current().submit(depth, levels - 1).result()


def fib(number: int) -> int:
    if number < 2:
        return number
    farm = Farm.current()
    return sum(future.result() for future in [farm.submit(fib, number - 1), farm.submit(fib, number - 2)])


def test_recursion_goes_on_on_one_slot(one: Farm) -> None:
    assert one.submit(depth, 4).result(PATIENCE_S) == 4
    assert one.submit(fib, 5).result(PATIENCE_S) == 5


def test_a_thousand_children_of_one_task(one: Farm) -> None:
    def total() -> int:
        farm = Farm.current()
        return sum(future.result() for future in [farm.submit(double, number) for number in range(1000)])

    assert one.submit(total).result(PATIENCE_S) == 999_000


def ways() -> dict[str, Any]:
    farm = Farm.current()
    found: dict[str, Any] = {"same": Farm.current() is farm, "map": list(farm.map(double, range(5)))}
    futures = [farm.submit(double, number) for number in range(5)]
    found["standard"] = all(isinstance(future, Future) for future in futures)
    found["wait"] = len(wait(futures, return_when=ALL_COMPLETED).done)
    found["as_completed"] = sorted(
        future.result() for future in as_completed([farm.submit(double, n) for n in range(4)])
    )
    called = threading.Event()
    farm.submit(double, 1).add_done_callback(lambda _future: called.set())
    found["callback"] = called.wait(PATIENCE_S)
    found["lazy"] = list(farm.map(double, iter(range(50)), buffersize=4))[-1]
    named = farm.options(name="another", timeout=PATIENCE_S, retries=1, priority=3, needs=["cpus=1"])
    found["options"] = named.submit(double, 4).result()
    return found


def test_each_way_of_waiting(one: Farm) -> None:
    assert one.submit(ways).result(PATIENCE_S) == {
        "same": True, "map": [0, 2, 4, 6, 8], "standard": True, "wait": 5, "as_completed": [0, 2, 4, 6], "callback": True,
        "lazy": 98, "options": 8,
    }  # fmt: skip


def in_a_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(Farm.current().submit(double, 4).result()))
    thread.start()
    thread.join()
    return found[0]


async def in_a_loop() -> int:
    farm = Farm.current()
    first = await asyncio.wrap_future(farm.submit(double, 1))
    return first + await farm.submit(double, 2)


def test_waiting_in_another_way_lends_the_place_too(one: Farm) -> None:
    assert one.submit(in_a_thread).result(PATIENCE_S) == 8
    assert one.submit(in_a_loop).result(PATIENCE_S) == 6


def test_tasks_of_an_async_farm(nothing_left_behind: None) -> None:
    async def main() -> int:
        async with AsyncFarm(max_workers=1, output=False) as farm:
            return await farm.submit(depth, 2)

    assert asyncio.run(main()) == 2


def test_functions_without_a_module(one: Farm) -> None:
    script: dict[str, Any] = {"Farm": Farm}
    exec(  # what a user types at a prompt
        "def leaf(n): return n + offset\noffset = 10\n"
        "def tree(n): return leaf(n) if not n else sum(Farm.current().map(tree, [n - 1, n - 1]))",
        script,
    )
    assert one.submit(script["tree"], 2).result(PATIENCE_S) == 40


class Refused(Exception):
    """An exception of the user's."""


def refuse(text: str) -> None:
    raise Refused(text)


def parent_of_a_failure() -> None:
    Farm.current().submit(refuse, "not today").result()


def test_an_exception_brings_both_tracebacks(one: Farm) -> None:
    with pytest.raises(Refused, match="not today") as caught:
        one.submit(parent_of_a_failure).result(PATIENCE_S)
    story = "\n".join(caught.value.__notes__)
    assert "in refuse" in story
    assert "in parent_of_a_failure" in story
    assert "Task 'refuse' on node" in story


def die() -> None:
    os._exit(7)


def test_a_child_that_dies_is_an_error_that_says_how(one: Farm) -> None:
    def parent() -> tuple[str, int | None, str]:
        error = Farm.current().submit(die).exception()
        assert isinstance(error, errors.TaskCrashed)
        return type(error).__name__, error.exit_code, error.node

    kind, code, node = one.submit(parent).result(PATIENCE_S)
    assert (kind, code) == ("TaskCrashed", 7)
    assert node


def large(data: bytes) -> bytes:
    return data[::-1]


def hand_on(data: bytes) -> bool:
    return Farm.current().submit(large, data).result() == data[::-1]


@pytest.mark.parametrize("farm", ["one", "two"])
def test_large_values(farm: str, request: pytest.FixtureRequest) -> None:
    data = os.urandom(3 * limits.INLINE_BYTES_MAX)
    assert request.getfixturevalue(farm).submit(hand_on, data).result(PATIENCE_S)


def test_children_run_on_other_nodes_too(two: Farm, meeting: Meeting) -> None:
    def parent(place: Place) -> list[int]:
        return list(Farm.current().map(arrive, [place] * 2, ["a", "b"]))

    future = two.submit(parent, meeting.place)
    visitors = [meeting.wait(), meeting.wait()]  # at the same time: the parent's place is lent, and there is one more
    for visitor in visitors:
        visitor.release()
    assert future.result(PATIENCE_S) == ["a", "b"]


def test_a_wide_task_lends_all_its_places(nothing_left_behind: None) -> None:
    def wide(levels: int) -> int:
        if not levels:
            return 1
        return 1 + Farm.current().options(needs=["cpus=2"]).submit(wide, levels - 1).result()

    with Farm(max_workers=2, output=False) as farm:
        assert farm.options(needs=["cpus=2"]).submit(wide, 2).result(PATIENCE_S) == 3


def test_cancel_and_kill(one: Farm, meeting: Meeting) -> None:
    def parent(place: Place) -> tuple[bool, bool, bool, str]:
        farm = Farm.current()
        running = farm.submit(arrive, place, "running")
        behind = [farm.submit(double, number) for number in range(100)]
        arrive(place, "parent")
        cancelled = behind[-1].cancel()
        killed = running.kill()
        try:
            behind[-1].result()
        except CancelledError:
            said = "cancelled"
        return cancelled, killed, running.cancelled() or isinstance(running.exception(), errors.TaskKilled), said

    future = one.submit(parent, meeting.place)
    first = meeting.wait()
    visitor, other = (first, None) if first.word == "parent" else (meeting.wait(), first)
    if other is None:
        other = meeting.wait()
    visitor.release()
    assert future.result(PATIENCE_S) == (True, True, True, "cancelled")
    other.wait_gone()


def test_what_a_child_prints_reaches_the_submitter(
    nothing_left_behind: None, capfd: pytest.CaptureFixture[str]
) -> None:
    def child() -> None:
        print("said by a child")

    def parent() -> None:
        Farm.current().submit(child).result()

    with Farm(max_workers=1) as farm:
        farm.submit(parent).result(PATIENCE_S)
    assert "said by a child" in capfd.readouterr().out


def test_outside_of_a_task_it_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(errors.NotInTask, match=r"open one with Farm\(\)"):
        Farm.current()


def test_a_future_does_not_travel(one: Farm) -> None:
    def parent() -> Any:
        return Farm.current().submit(double, 1)

    with pytest.raises(TypeError, match="belongs to the task that made it"):
        one.submit(parent).result(PATIENCE_S)
