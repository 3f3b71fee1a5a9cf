"""What a `Pool` gives back: results that can be waited for, and iterators over results."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from farmhand.model import limits

T = TypeVar("T")
SubmitChunk = Callable[[Callable[[Future[Any]], object], list[Any]], object]


class PoolTimeout(multiprocessing.TimeoutError, TimeoutError):
    """What was waited for did not come in time; the call goes on."""


class AsyncResult(Generic[T]):
    """The outcome of `apply_async`."""

    def __init__(
        self, callback: Callable[[T], object] | None, error_callback: Callable[[BaseException], object] | None
    ) -> None:
        self._callback = callback
        self._error_callback = error_callback
        self._event = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def ready(self) -> bool:
        """Whether there is an outcome."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Whether the call ended without an exception. Raises `ValueError` when it has not ended."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the outcome, at most `timeout` seconds."""
        if timeout is not None:
            self._event.wait(timeout)
            return
        while not self._event.wait(limits.SIGNAL_S):  # so that Ctrl-C is noticed
            pass

    def get(self, timeout: float | None = None) -> T:
        """The value. Raises what the call raised, and `multiprocessing.TimeoutError` after `timeout` seconds."""
        self.wait(timeout)
        if not self.ready():
            raise PoolTimeout(f"no result within {timeout} s")
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def tell(self, future: Future[Any]) -> None:
        """The call has ended."""
        self._error = error_of(future)
        if self._error is None:
            self._value = future.result()
        self._finish()

    def _finish(self) -> None:
        """Callbacks come before whoever waits, as with multiprocessing."""
        try:
            if self._error is not None:
                if self._error_callback is not None:
                    self._error_callback(self._error)
            elif self._callback is not None:
                self._callback(self._value)
        finally:
            self._event.set()


class MapResult(AsyncResult[list[T]], Generic[T]):
    """The outcome of `map_async` and `starmap_async`: there when every chunk has ended, also after a failure."""

    def __init__(self, chunks: int, callback: Callable[[list[T]], object] | None,
                 error_callback: Callable[[BaseException], object] | None) -> None:  # fmt: skip
        super().__init__(callback, error_callback)
        self._parts: list[list[T]] = [[] for _ in range(chunks)]
        self._left = chunks
        self._value = []
        if not chunks:
            self._event.set()

    def tell_chunk(self, number: int, future: Future[Any]) -> None:
        """One chunk has ended. The first error counts."""
        error = error_of(future)
        if error is None:
            self._parts[number] = future.result()
        elif self._error is None:
            self._error = error
        self._left -= 1
        if not self._left:
            self._value = list(itertools.chain.from_iterable(self._parts))
            self._parts.clear()
            self._finish()


class PoolIterator(Generic[T]):
    """Results as `imap` and `imap_unordered` give them, while at most so many calls are ahead of the reader."""

    def __init__(self, submit: SubmitChunk, items: Iterable[Any], chunksize: int, *, ordered: bool) -> None:
        self._submit = submit
        self._chunks = chunked(items, chunksize)
        self._ahead = max(1, limits.MAP_AHEAD // chunksize)
        self._ordered = ordered
        self._arrived: dict[int, Future[Any]] = {}
        self._news = threading.Condition()
        self._reading = threading.Lock()  # several threads may read
        self._sent = self._taken = 0
        self._more = True
        self._values: deque[T] = deque()
        self._fill()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self.next()

    def next(self, timeout: float | None = None) -> T:
        """The next result. Raises what its call raised, and `multiprocessing.TimeoutError` after `timeout` seconds."""
        with self._reading:
            while not self._values:
                self._fill()
                if self._taken == self._sent:
                    raise StopIteration
                self._values.extend(self._take(timeout).result())
            return self._values.popleft()

    def _fill(self) -> None:
        while self._more and self._sent - self._taken < self._ahead:
            number = self._sent
            self._sent += 1
            try:
                chunk = next(self._chunks)
            except StopIteration:
                self._more = False
                self._sent -= 1
            except Exception as error:  # noqa: BLE001 - the reader gets it where the item would have been
                self._more = False
                self._tell(number, failed(error))
            else:
                self._submit(lambda future, number=number: self._tell(number, future), chunk)  # type: ignore[misc]

    def _tell(self, number: int, future: Future[Any]) -> None:
        with self._news:
            self._arrived[number] = future
            self._news.notify_all()

    def _take(self, timeout: float | None) -> Future[Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._news:
            while (number := self._next_number()) is None:
                left = limits.SIGNAL_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise PoolTimeout(f"no result within {timeout} s")
                self._news.wait(left)
            self._taken += 1
            return self._arrived.pop(number)

    def _next_number(self) -> int | None:
        if self._ordered:
            return self._taken if self._taken in self._arrived else None
        return next(iter(self._arrived), None)


def error_of(future: Future[Any]) -> BaseException | None:
    """Why a call that has ended has no value; a cancelled one has its `CancelledError`."""
    try:
        return future.exception()
    except BaseException as error:  # noqa: BLE001 - it is the outcome
        return error


def failed(error: Exception) -> Future[Any]:
    """A call that has ended with this error."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last perhaps shorter."""
    source = iter(items)
    while chunk := list(itertools.islice(source, size)):
        yield chunk
