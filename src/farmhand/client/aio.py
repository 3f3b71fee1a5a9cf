"""`AsyncFarm`: a farm for asyncio. A `Farm` does the work; what of it may block is done on other threads.

Cancelling who waits stops the task. `client.awaiting` has the futures.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures._base import FINISHED
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from farmhand.client.awaiting import AsyncFuture, Mailbox, as_completed, mailbox, stop
from farmhand.client.farm import Farm, FarmView
from farmhand.client.futures import FarmFuture
from farmhand.client.shared import Ref
from farmhand.errors import BadOption
from farmhand.model import limits

P = ParamSpec("P")
T = TypeVar("T")

_BLOCK: Final = 256  # calls of `map` submitted together
_PACKERS: Final = 4  # threads that pack and store arguments that may be large
_ITEMS_MAX: Final = 64  # of a container that is looked into
_SCALARS: Final = frozenset({int, float, bool, complex, type(None)})
_TEXTS: Final = frozenset({str, bytes, bytearray})
_CONTAINERS: Final = frozenset({tuple, list, set, frozenset})


def _in_thread(function: Callable[[], T]) -> Future[T]:
    """Run something that blocks in a thread of its own, which the interpreter waits for."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - whoever waits hears of it
            future.set_exception(error)

    threading.Thread(target=run, name="farmhand-aio", daemon=False).start()
    return future


def _is_small(values: Iterable[Any]) -> bool:
    """Whether arguments certainly are small. What cannot be told at a glance, as an array or an object, is not."""
    size = 0
    for value in values:
        kind = type(value)
        if kind in _SCALARS:
            continue
        if kind in _TEXTS:
            size += len(value)
        elif kind in _CONTAINERS and len(value) <= _ITEMS_MAX:
            for item in value:
                if type(item) in _TEXTS:
                    size += len(item)
                elif type(item) not in _SCALARS:
                    return False
        else:
            return False
    return size < limits.INLINE_BYTES_MAX


class _AsyncView:
    """What an `AsyncFarm` and a view on it share."""

    @property
    def _whole(self) -> AsyncFarm:
        raise NotImplementedError

    @property
    def _view(self) -> Farm | FarmView:
        raise NotImplementedError

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncFuture[T]:
        """Run `fn(*args, **kwargs)` on the farm. Returns at once; await the future for the result.

        Arguments that may be large are packed and stored by other threads; change them only when the future is done.
        Raises: as `Farm.submit`; what concerns arguments that may be large is raised by the future.
        """
        whole = self._whole
        view = self._view
        future = AsyncFuture[T](whole._mailbox, kill=whole._kill, among=whole._open)
        try:
            if _is_small(args) and (not kwargs or _is_small(kwargs.values())):
                return future.bind(view.submit(fn, *args, **kwargs))
            view._farm._check_open()
        except BaseException:
            whole._open.discard(future)
            raise
        whole._pack_later(future, functools.partial(view.submit, fn, *args, **kwargs))
        return future

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any] | AsyncIterable[Any],
            buffersize: int | None = None) -> AsyncGenerator[T, None]:  # fmt: skip
        """The results of the calls, in order, as an async iterator. The iterables may be asynchronous.

        At most `buffersize` calls are under way (4096 by default). Nothing is submitted before the first result is asked
        for. Closing the iterator stops what is under way; `contextlib.aclosing` does so at once.
        Raises: from the iterator, the first error of a call or of an iterable.
        """
        if buffersize is not None and type(buffersize) is not int:
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        view, ahead = self._view, buffersize or limits.MAP_AHEAD
        if any(isinstance(source, AsyncIterable) for source in iterables):
            return _map_stream(functools.partial(self.submit, fn), iterables, ahead)
        calls: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        submit_many = functools.partial(view._farm._submit_many, view._options, fn)
        return _map_blocks(self._whole, submit_many, calls, ahead)

    def as_completed(self, futures: Iterable[asyncio.Future[T]]) -> AsyncGenerator[asyncio.Future[T], None]:
        """The futures, each when it is done. Leaving early leaves the others alone."""
        return as_completed(futures)

    async def progress(
        self, futures: Iterable[asyncio.Future[T]], *, title: str = ""
    ) -> AsyncGenerator[asyncio.Future[T], None]:
        """As `as_completed`, with a bar that is updated in place, on a terminal and in a notebook."""
        from farmhand.client.progress import Bar

        waited = list(futures)
        with Bar(len(waited), title) as bar:
            async for future in as_completed(waited):
                yield bar.count(future)

    def options(self, **options: Any) -> AsyncFarmView:
        """The same farm, whose submissions have these options; those of `Farm.options`. Raises `BadNeed`, `BadOption`."""
        return AsyncFarmView(self._whole, self._whole._view.options(**options))


class AsyncFarmView(_AsyncView):
    """A farm seen with options."""

    def __init__(self, whole: AsyncFarm, view: FarmView) -> None:
        self._of = whole
        self._with = view

    @property
    def _whole(self) -> AsyncFarm:
        return self._of

    @property
    def _view(self) -> FarmView:
        return self._with


class AsyncFarm(_AsyncView):
    """A `Farm` for asyncio: `async with AsyncFarm() as farm`, or `farm = await AsyncFarm()` and `await farm.shutdown()`.

    address, options: as those of `Farm`.
    on_cancel: what becomes of a running task when whoever awaits it is cancelled: `"kill"` or `"finish"`. One that waits is
        withdrawn either way.

    It belongs to the event loop on which it was opened. Leaving the block waits for what was submitted; leaving it by an
    exception or a cancellation stops everything instead.
    Raises: `BadOption`; when it is opened, what `Farm` raises.
    """

    def __init__(self, address: str | None = None, *, on_cancel: str = "kill", **options: Any) -> None:
        if on_cancel not in ("kill", "finish"):
            raise BadOption(f"on_cancel={on_cancel!r}: 'kill' or 'finish'")
        self._kill = on_cancel == "kill"
        self._make = functools.partial(Farm, address, **options)
        self._farm: Farm | None = None
        self._mailbox: Mailbox
        self._open: set[AsyncFuture[Any]] = set()
        self._packers = ThreadPoolExecutor(_PACKERS, "farmhand-packing")

    @property
    def _whole(self) -> AsyncFarm:
        return self

    @property
    def _view(self) -> Farm:
        if self._farm is None:
            raise RuntimeError("the farm is not open: write `async with AsyncFarm() as farm`")
        return self._farm

    # ---- opening and closing

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        if self._farm is not None:
            raise RuntimeError("the farm is open already")
        self._mailbox = mailbox()
        opening = _in_thread(self._make)
        try:
            self._farm = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.shutdown()
        else:
            await self._abandon()

    async def shutdown(self, *, cancel_futures: bool = False) -> None:
        """Take no more work, and return when every task has its outcome and everything is closed.

        With `cancel_futures` what does not run is cancelled. Cancelling this call stops everything.
        """
        farm = self._view
        try:
            if cancel_futures:
                for future in list(self._open):
                    if not future.running():
                        future.cancel()
            while self._open:
                await asyncio.wait(list(self._open))
            await asyncio.wrap_future(_in_thread(functools.partial(farm.shutdown, cancel_futures=cancel_futures)))
        except asyncio.CancelledError:
            await self._abandon()
            raise
        self._packers.shutdown(wait=False)

    async def _abandon(self) -> None:
        """Stop everything. The thread that does so goes on when this is cancelled too."""
        for future in sorted(self._open, key=AsyncFuture.running):  # what waits first, so that it does not start
            future.cancel()
        self._packers.shutdown(wait=False, cancel_futures=True)
        await asyncio.wrap_future(_in_thread(self._view._abandon))

    # ---- submitting

    def _pack_later(self, future: AsyncFuture[Any], submit: Callable[[], FarmFuture[Any]]) -> None:
        """Submit on another thread, where packing may take its time and wait for room in the engine."""
        loop = asyncio.get_running_loop()

        def tell(packing: Future[FarmFuture[Any]]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(packed, packing)

        def packed(packing: Future[FarmFuture[Any]]) -> None:
            if packing.cancelled():
                future.cancel()
            elif error := packing.exception():
                future.fail(error)
            else:
                future.bind(packing.result())

        future.packing = self._packers.submit(submit)
        future.packing.add_done_callback(tell)

    async def scatter(self, obj: Any) -> Ref:
        """As `Farm.scatter`; packed and stored by another thread."""
        return await asyncio.wrap_future(self._packers.submit(self._view.scatter, obj))

    # ---- looking

    async def status(self) -> dict[str, Any]:
        """The farm as `farmhand status --json` shows it. Raises `EngineError` when the steward does not answer."""
        return await asyncio.wrap_future(_in_thread(self._view.status))

    @property
    def session(self) -> str:
        """The id of this client's session."""
        return self._view.session

    def __repr__(self) -> str:
        return "<AsyncFarm not open>" if self._farm is None else repr(self._farm).replace("Farm", "AsyncFarm", 1)

    def _repr_html_(self) -> str:
        return self._view._repr_html_()


def _close_unwanted(opening: Future[Farm]) -> None:
    """Whoever opened the farm was cancelled meanwhile."""
    if opening.exception() is None:
        opening.result()._abandon()


# ---- map


async def _map_blocks(
    farm: AsyncFarm, submit_many: Callable[[list[tuple[Any, ...]]], list[FarmFuture[Any]]],
    calls: Iterator[tuple[Any, ...]], ahead: int,
) -> AsyncGenerator[Any, None]:  # fmt: skip
    """Over plain iterables: taken on the loop block by block, packed on another thread."""
    futures: deque[FarmFuture[Any]] = deque()
    block = max(1, min(_BLOCK, ahead // 4))
    more = True
    try:
        while True:
            while more and len(futures) <= ahead - block:
                wanted = list(itertools.islice(calls, block))
                more = len(wanted) == block
                if wanted:
                    futures.extend(await _submit_block(farm, submit_many, wanted))
            if not futures:
                return
            head = futures.popleft()
            if head._state == FINISHED and head._exception is None:
                yield head._result
            else:
                yield await AsyncFuture[Any](farm._mailbox, kill=farm._kill).bind(head)
    finally:
        for future in reversed(futures):  # what waits first, so that it does not start
            stop(future, kill=farm._kill)


async def _submit_block(
    farm: AsyncFarm, submit_many: Callable[[list[tuple[Any, ...]]], list[FarmFuture[Any]]], block: list[tuple[Any, ...]]
) -> list[FarmFuture[Any]]:
    packing = farm._packers.submit(submit_many, block)

    def withdraw(packed: Future[list[FarmFuture[Any]]]) -> None:
        if not packed.cancelled() and packed.exception() is None:
            for future in packed.result():
                stop(future, kill=farm._kill)

    try:
        return await asyncio.wrap_future(packing)
    except asyncio.CancelledError:
        packing.add_done_callback(withdraw)
        raise


async def _map_stream(
    submit: Callable[..., AsyncFuture[Any]], iterables: tuple[Any, ...], ahead: int
) -> AsyncGenerator[Any, None]:
    """Over asynchronous iterables: each call is submitted when its arguments come, while results are taken."""
    futures: deque[AsyncFuture[Any]] = deque()
    news, room = asyncio.Event(), asyncio.Event()

    async def feed() -> None:
        async for args in _zip(iterables):
            futures.append(submit(*args))
            news.set()
            while len(futures) >= ahead:
                room.clear()
                await room.wait()

    feeding = asyncio.create_task(feed(), name="farmhand-map")
    feeding.add_done_callback(lambda _: news.set())
    try:
        while True:
            if futures:
                await asyncio.wait([futures[0]])
                head = futures.popleft()
                room.set()
                yield await head
            elif feeding.done():
                await feeding
                return
            else:
                news.clear()
                await news.wait()
    finally:
        feeding.cancel()
        for future in reversed(futures):
            future.cancel()
        await asyncio.wait([feeding])
        if not feeding.cancelled():
            feeding.exception()  # whatever it is: the caller has stopped listening


async def _zip(iterables: tuple[Any, ...]) -> AsyncIterator[tuple[Any, ...]]:
    """As `zip`, over plain and asynchronous iterables."""
    sources = [aiter(it) if isinstance(it, AsyncIterable) else iter(it) for it in iterables]
    while True:
        args = []
        for source in sources:
            try:
                args.append(await anext(source) if isinstance(source, AsyncIterator) else next(source))
            except (StopIteration, StopAsyncIteration):
                return
        yield tuple(args)
