"""`map`: results in order, over iterables of known length at once, over iterators with a bounded number under way."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from farmhand.client.futures import FarmFuture

SubmitMany = Callable[[Iterable[tuple[Any, ...]]], list[FarmFuture[Any]]]
_BLOCK = 256  # calls submitted together when the window has room


def map_all(submit_many: SubmitMany, calls: Iterable[tuple[Any, ...]], timeout: float | None) -> Iterator[Any]:
    """Submit every call now; yield results in order, cancelling the rest when the caller stops or one fails."""
    deadline = None if timeout is None else time.monotonic() + timeout
    futures = submit_many(calls)
    futures.reverse()
    return _results(futures, deadline)


def _results(futures: list[FarmFuture[Any]], deadline: float | None) -> Iterator[Any]:
    try:
        while futures:
            yield _take(futures.pop(), deadline)
    finally:
        for future in futures:
            future.cancel()


def _take(future: FarmFuture[Any], deadline: float | None) -> Any:
    """The future's result, without keeping the future alive while the caller looks at it."""
    try:
        if deadline is None:
            return future.result()
        return future.result(deadline - time.monotonic())
    except BaseException:
        future.cancel()
        raise
    finally:
        del future


def map_lazily(
    submit_many: SubmitMany, calls: Iterable[tuple[Any, ...]], timeout: float | None, ahead: int
) -> Iterator[Any]:
    """Keep at most `ahead` calls under way; the first ones are submitted now."""
    deadline = None if timeout is None else time.monotonic() + timeout
    source = iter(calls)
    futures = deque(submit_many(itertools.islice(source, ahead)))
    return _lazy_results(submit_many, source, futures, deadline, ahead)


def _lazy_results(submit_many: SubmitMany, source: Iterator[tuple[Any, ...]], futures: deque[FarmFuture[Any]],
                  deadline: float | None, ahead: int) -> Iterator[Any]:  # fmt: skip
    block = max(1, min(_BLOCK, ahead // 4))
    try:
        while True:
            if len(futures) <= ahead - block:
                futures.extend(submit_many(itertools.islice(source, block)))
            if not futures:
                return
            yield _take(futures.popleft(), deadline)
    finally:
        for future in futures:
            future.cancel()
