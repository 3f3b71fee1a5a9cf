"""Futures for an event loop: an `asyncio.Future` bound to a future of a farm.

Outcomes come on the session's thread. They are put into the loop's mailbox, which wakes the loop once for as many as have
come.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from concurrent.futures import Future
from typing import Any, Final, Generic, Self, TypeVar

from farmhand.client.futures import FarmFuture, share_condition
from farmhand.client.inputs import Source, source_of
from farmhand.code import inputs as code_inputs
from farmhand.errors import InputFailed, TaskKilled

T = TypeVar("T")

_DELIVER_MAX: Final = 1000  # outcomes set in one turn of the loop (about 2 ms), so that others have theirs


class Mailbox:
    """Outcomes on their way to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: weakref.ref[asyncio.AbstractEventLoop] = weakref.ref(loop)
        self._arrived: deque[tuple[AsyncFuture[Any], FarmFuture[Any]]] = deque()
        self._awake = False
        self.condition = threading.Condition()  # shared by futures that no thread waits for: making one each costs most

    def put(self, future: AsyncFuture[Any], source: FarmFuture[Any]) -> None:
        """From any thread: `source` is done."""
        self._arrived.append((future, source))
        if not self._awake:
            self._awake = True
            loop = self._loop()
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._awake = False  # before looking: whoever puts from now on wakes the loop again
        arrived = self._arrived
        for _ in range(min(len(arrived), _DELIVER_MAX)):
            future, source = arrived.popleft()
            future.take(source)
        if arrived and not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._deliver)


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = weakref.WeakKeyDictionary()


def mailbox() -> Mailbox:
    """That of the running loop."""
    loop = asyncio.get_running_loop()
    found = _mailboxes.get(loop)
    if found is None:
        found = _mailboxes[loop] = Mailbox(loop)
    return found


class AsyncFuture(asyncio.Future[T], Generic[T]):
    """An `asyncio.Future` for a task of a farm; made by `AsyncFarm.submit`.

    Cancelling it, or the asyncio task that awaits it, withdraws the farm's task when it waits and kills it when it runs.
    """

    def __init__(self, box: Mailbox, *, kill: bool = True, among: set[AsyncFuture[Any]] | None = None) -> None:
        super().__init__()
        self._mailbox = box
        self._kill = kill
        self._source: FarmFuture[T] | None = None
        self._origin: FarmFuture[T] | None = None  # the same, also when this one is done
        self.packing: Future[FarmFuture[T]] | None = None  # gives it, while arguments are packed
        self._among = among  # the open ones of a farm
        if among is not None:
            among.add(self)

    def bind(self, source: FarmFuture[T]) -> Self:
        """The farm's future whose outcome this one gets. One that was cancelled meanwhile stops it."""
        self._origin = source
        if self.done():
            stop(source, kill=self._kill)
        else:
            self._source = source
            if self._among is not None:
                share_condition(source, self._mailbox.condition)
            source.add_done_callback(self._on_done)
        return self

    def as_input(self) -> Source:
        """It as an argument of another call; not on the loop, for its own arguments may still be packed."""
        if self._origin is None and self.packing is not None:
            try:
                return source_of(self.packing.result())
            except BaseException as error:
                raise InputFailed(f"an input was not submitted: {type(error).__name__}: {error}") from error
        if self._origin is None:
            raise InputFailed("an input was cancelled before it was submitted")
        return source_of(self._origin)

    def _on_done(self, source: Any) -> None:
        self._mailbox.put(self, source)

    def take(self, source: FarmFuture[T]) -> None:
        """The source is done: so is this. On the loop."""
        self._source = None
        if self.done():
            return
        if source.cancelled():
            super().cancel()
        elif source._exception is not None:
            self.fail(source._exception)
        else:
            self.set_result(source._result)  # type: ignore[arg-type]
        if self._among is not None:
            self._among.discard(self)

    def fail(self, error: BaseException) -> None:
        """End with an error. asyncio refuses `StopIteration`, as a coroutine does."""
        if self.done():
            return
        if isinstance(error, StopIteration):
            wrapped = RuntimeError("the task raised StopIteration")
            wrapped.__cause__ = error
            error = wrapped
        self.set_exception(error)
        if self._among is not None:
            self._among.discard(self)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancelled at once; the farm's task is withdrawn when it waits and killed when it runs. False when done."""
        if not super().cancel(msg):
            return False
        source, self._source = self._source, None
        if self._among is not None:
            self._among.discard(self)
        if source is not None:
            stop(source, kill=self._kill)
        return True

    def running(self) -> bool:
        """Whether the task runs now, as far as its node has said."""
        return self._source is not None and self._source.running()

    async def kill(self) -> bool:
        """Stop the task wherever it is, with every process it started, and wait until that is confirmed.

        Returns True when it was stopped or cancelled, False when it had ended by itself.
        """
        if self._source is not None:
            stop(self._source, kill=True)
        elif not self.done():
            self.cancel()  # its arguments are being packed
        await asyncio.wait([self])
        return self.cancelled() or isinstance(self.exception(), TaskKilled)

    def __repr__(self) -> str:
        if self._source is not None and not self.done():
            return repr(self._source).replace("FarmFuture", "AsyncFuture", 1)
        return super().__repr__()


code_inputs.kinds[AsyncFuture] = AsyncFuture.as_input


def stop(source: FarmFuture[Any], *, kill: bool) -> None:
    """Withdraw a task; with `kill` stop it also while it runs. Waits for nothing."""
    driver, task = source._driver, source._task
    if not kill or driver is None or task is None:
        source.cancel()
    elif driver.kill(task):
        source._withdraw()


def awaitable(source: FarmFuture[T]) -> AsyncFuture[T]:
    """A future of the running loop with the outcome of an ordinary farm's future. Cancelling it stops the task."""
    return AsyncFuture[T](mailbox()).bind(source)


async def as_completed(futures: Iterable[asyncio.Future[T]]) -> AsyncGenerator[asyncio.Future[T], None]:
    """The futures, each when it is done."""
    waiting = set(futures)
    done: deque[asyncio.Future[T]] = deque()
    news = asyncio.Event()

    def on_done(future: asyncio.Future[T]) -> None:
        done.append(future)
        news.set()

    for future in waiting:
        future.add_done_callback(on_done)
    try:
        while waiting:
            while done:
                future = done.popleft()
                waiting.discard(future)
                yield future
            if waiting:
                news.clear()
                await news.wait()
    finally:
        for future in waiting:
            future.remove_done_callback(on_done)
