"""The calls that are measured, and how. Everything here works with any `concurrent.futures.Executor`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, Final

MB: Final = 1024 * 1024
WARM_CALLS: Final = 200  # before anything is timed: slots are started, durations learned, code is there
WINDOW: Final = 20_000  # calls that a submitter keeps under way, as somebody with a list of work would
LARGE: Final = 64 * MB
SHARED: Final = 40 * MB
SHARERS: Final = 20
STEPS: Final = 10_000  # of a chain, and about the calls of a tree
REPEATS: Final = 3  # of each measure; the best counts, because the machine is shared


def echo(value: Any) -> Any:
    """The smallest call there is."""
    return value


def size_of(data: bytes) -> int:
    """Takes a large argument."""
    return len(data)


def make(size: int) -> bytes:
    """Gives a large result."""
    return bytes(size)


def nap(seconds: float) -> None:
    """Occupies a slot without using its core."""
    time.sleep(seconds)


def warm(executor: Executor) -> None:
    """Start every slot and let the executor learn what it learns."""
    for future in [executor.submit(echo, number) for number in range(WARM_CALLS)]:
        future.result()


def best(measure: Callable[[], float], repeats: int = REPEATS) -> float:
    """The best of some repeats of a measure where more is better."""
    return max(measure() for _ in range(repeats))


def submit_rate(executor: Executor, calls: int) -> float:
    """Calls a second through `submit`, from the first submit to the last result."""
    began = time.perf_counter()
    futures: list[Future[int]] = [executor.submit(echo, number) for number in range(calls)]
    for number, future in enumerate(futures):
        if future.result() != number:
            raise AssertionError(f"call {number} gave another call's result")
    return calls / (time.perf_counter() - began)


def map_rate(executor: Executor, calls: int) -> float:
    """Calls a second through `map`, without a chunk size."""
    began = time.perf_counter()
    total = sum(executor.map(echo, range(calls)))
    seconds = time.perf_counter() - began
    if total != calls * (calls - 1) // 2:
        raise AssertionError("map lost a result")
    return calls / seconds


def latencies(executor: Executor, calls: int) -> tuple[float, float]:
    """Median and 99th percentile of one call at a time, in microseconds."""
    taken = []
    for number in range(calls):
        began = time.perf_counter()
        executor.submit(echo, number).result()
        taken.append(time.perf_counter() - began)
    taken.sort()
    return taken[len(taken) // 2] * 1e6, taken[int(len(taken) * 0.99)] * 1e6


def argument_rate(executor: Executor) -> float:
    """MB a second of one large argument."""
    data = bytes(range(256)) * (LARGE // 256)
    began = time.perf_counter()
    if executor.submit(size_of, data).result() != LARGE:
        raise AssertionError("the argument arrived cut short")
    return LARGE / MB / (time.perf_counter() - began)


def result_rate(executor: Executor) -> float:
    """MB a second of one large result."""
    began = time.perf_counter()
    if len(executor.submit(make, LARGE).result()) != LARGE:
        raise AssertionError("the result arrived cut short")
    return LARGE / MB / (time.perf_counter() - began)


def follow(value: int) -> int:
    """A step of a chain."""
    return value + 1


def join(one: int, other: int) -> int:
    """A knot of a tree."""
    return one + other


def chain_rate(executor: Executor, steps: int) -> float:
    """Steps a second of a chain of calls, each with the future of the one before as its argument."""
    began = time.perf_counter()
    last: Any = executor.submit(follow, 0)
    for _ in range(steps - 1):
        last = executor.submit(follow, last)
    if last.result() != steps:
        raise AssertionError("the chain lost a step")
    return steps / (time.perf_counter() - began)


def tree_rate(executor: Executor, leaves: int) -> float:
    """Calls a second of a tree: so many leaves, joined two by two by their futures."""
    began = time.perf_counter()
    level: list[Any] = [executor.submit(follow, number) for number in range(leaves)]
    while len(level) > 1:
        odd = level[len(level) // 2 * 2 :]
        level = [executor.submit(join, *level[i : i + 2]) for i in range(0, len(level) - len(odd), 2)] + odd
    if level[0].result() != leaves * (leaves + 1) // 2:
        raise AssertionError("the tree lost a leaf")
    return (2 * leaves - 1) / (time.perf_counter() - began)


def sharing_rate(executor: Executor) -> float:
    """Calls a second that all have the same 40 MB array (`bytes` where numpy is not installed) as an argument."""
    data = _forty_megabytes()
    began = time.perf_counter()
    futures = [executor.submit(size_of, data) for _ in range(SHARERS)]
    if any(future.result() != SHARED for future in futures):
        raise AssertionError("the argument arrived cut short")
    return SHARERS / (time.perf_counter() - began)


def _forty_megabytes() -> Any:
    return as_array(bytes(range(256)) * (SHARED // 256))


def as_array(data: bytes | bytearray) -> Any:
    """The same as an array, where numpy is installed: what people share."""
    try:
        import numpy as np
    except ImportError:
        return data
    return np.frombuffer(data, dtype=np.uint8)


def nap_share(executor: Executor, seconds: float, calls: int, slots: int) -> float:
    """How much of the slots' time was spent in the calls: calls x seconds / (slots x wall)."""
    began = time.perf_counter()
    for _ in executor.map(nap, [seconds] * calls):
        pass
    return calls * seconds / (slots * (time.perf_counter() - began))


def bare_share(seconds: float, calls: int) -> float:
    """The same for a loop in this very process: what the clock and the kernel allow."""
    began = time.perf_counter()
    for _ in range(calls):
        nap(seconds)
    return calls * seconds / (time.perf_counter() - began)


def nap_beside(data: Any, seconds: float) -> int:
    """Occupies a slot that has something large."""
    time.sleep(seconds)
    return len(data)


def numbers(count: int) -> Iterator[int]:
    """A generator, so that a lazy map has no length to look at."""
    yield from range(count)
