"""Adds the numbers below N in ten parts, in three ways that a `concurrent.futures.Executor` offers.

python examples/antpool_sum.py [N] [ADDRESS]
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future

from farmhand.antpool import AntPoolExecutor

PARTS = 10


def add(start: int, stop: int) -> int:
    """The sum of start, start + 1 ... stop - 1, in a plain loop."""
    total = 0
    for number in range(start, stop):
        total += number
    return total


def cuts(limit: int) -> list[tuple[int, int]]:
    """PARTS ranges that make up 0 ... limit - 1."""
    edges = [limit * part // PARTS for part in range(PARTS + 1)]
    return list(itertools.pairwise(edges))


def by_submit(pool: Executor, limit: int) -> int:
    """A future for each part, asked one after the other."""
    futures = [pool.submit(add, start, stop) for start, stop in cuts(limit)]
    return sum(future.result() for future in futures)


def by_callback(pool: Executor, limit: int) -> int:
    """Each part adds itself when it is done."""
    total, missing, done = [0], [PARTS], threading.Event()
    lock = threading.Lock()

    def take(future: Future[int]) -> None:
        with lock:
            total[0] += future.result()
            missing[0] -= 1
            if not missing[0]:
                done.set()

    for start, stop in cuts(limit):
        pool.submit(add, start, stop).add_done_callback(take)
    done.wait()
    return total[0]


def by_map(pool: Executor, limit: int) -> int:
    """One call of map with an iterable for each parameter."""
    return sum(pool.map(add, *zip(*cuts(limit), strict=True)))


WAYS: tuple[Callable[[Executor, int], int], ...] = (by_submit, by_callback, by_map)

if __name__ == "__main__":
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000_000
    address = sys.argv[2] if len(sys.argv) > 2 else "ws://127.0.0.1:8086"
    with AntPoolExecutor(address) as pool:
        for way in WAYS:
            began = time.perf_counter()
            total = way(pool, limit)
            print(f"{way.__name__:12} {total} in {time.perf_counter() - began:.2f} s")
