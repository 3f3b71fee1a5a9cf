"""A tree of tasks: each but the leaves submits ten more and waits for them. Only some executors can do that."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final

WIDTH: Final = 10
LEVELS: Final = 3  # 1,000 leaves


def leaves(way: str, levels: int) -> int:
    """How many leaves are below this task."""
    return sum(WAYS[way]([levels - 1] * WIDTH)) if levels else 1


def _farmhand(levels: list[int]) -> list[int]:
    from farmhand import Farm

    return list(Farm.current().map(leaves, ["farmhand"] * len(levels), levels))


def _dask(levels: list[int]) -> list[int]:
    import distributed

    with distributed.worker_client() as client:
        found: list[int] = client.gather([client.submit(leaves, "dask", level, pure=False) for level in levels])
    return found


def _ray(levels: list[int]) -> list[int]:
    import ray

    found: list[int] = ray.get([ray.remote(leaves).remote("ray", level) for level in levels])
    return found


WAYS: Final[dict[str, Callable[[list[int]], list[int]]]] = {"farmhand": _farmhand, "dask": _dask, "ray": _ray}


def tree_rate(executor: Executor, way: str) -> float:
    """Leaves a second of one tree."""
    began = time.perf_counter()
    found: Any = executor.submit(leaves, way, LEVELS).result()
    if found != WIDTH**LEVELS:
        raise AssertionError("the tree lost a leaf")
    return WIDTH**LEVELS / (time.perf_counter() - began)
