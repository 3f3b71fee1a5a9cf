"""`Pool`: a farm in the shape of `multiprocessing.Pool`."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sized
from types import TracebackType
from typing import Any, Self, TypeVar

from farmhand import errors
from farmhand.client.farm import Farm, FarmView
from farmhand.neighbours.outcomes import AsyncResult, MapResult, PoolIterator, chunked
from farmhand.neighbours.window import Window

T = TypeVar("T")
Callback = Callable[[Any], object] | None

_TASKS = 256  # so many items make a task each; they keep a farm busy
_CHUNK_MAX = 64  # items in a task


def run_chunk(function: Callable[..., Any], items: list[Any]) -> list[Any]:
    """In a slot: the function of each item."""
    return [function(item) for item in items]


def run_star_chunk(function: Callable[..., Any], items: list[Iterable[Any]]) -> list[Any]:
    """In a slot: the function of each item's arguments."""
    return [function(*item) for item in items]


class Pool:
    """A `multiprocessing.Pool` on a farm.

    processes: slots of the pool's own farm; with `farm`, how many calls it has on it at once (default: no limit).
    initializer, initargs: run once in each slot; only for the pool's own farm.
    maxtasksperchild: only `None`; a slot lives on.
    farm: a `Farm` or a view on one, which the pool does not close. Without one it opens `Farm(max_workers=processes)`, which
        is `$FARMHAND_FARM` or embedded, and closes it.

    A call may run twice when a slot or node dies under it. Callbacks run one after another on a thread of the pool.
    Raises: `BadOption` (a `ValueError`) for what cannot be honoured; what `Farm` raises.
    """

    def __init__(self, processes: int | None = None, initializer: Callable[..., object] | None = None,
                 initargs: tuple[Any, ...] = (), maxtasksperchild: int | None = None, *,
                 farm: Farm | FarmView | None = None) -> None:  # fmt: skip
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if maxtasksperchild is not None:
            raise errors.BadOption("maxtasksperchild: a slot lives until something kills it; leave it out")
        if farm is not None and initializer is not None:
            raise errors.BadOption("initializer: an open farm has its own; give it to Farm(initializer=...)")
        self._running = True
        self._own: Farm | None = None
        if farm is None:
            farm = self._own = Farm(max_workers=processes, initializer=initializer, initargs=initargs)
        self._farm = farm
        self._bound = 0 if self._own is not None or processes is None else processes
        self._window = window = Window(farm, self._bound)
        weakref.finalize(self, window.close)

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def _check_running(self) -> None:
        if not self._running:
            raise ValueError("Pool not running")

    # ---- one call

    def apply(self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None) -> T:
        """`func(*args, **kwds)` on the farm. Raises what it raises."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None,
                    callback: Callback = None, error_callback: Callback = None) -> AsyncResult[T]:  # fmt: skip
        """The same without waiting. Raises `ValueError` when the pool is closed."""
        self._check_running()
        result: AsyncResult[T] = AsyncResult(callback, error_callback)
        self._window.submit(result.tell, func, tuple(args), kwds)
        return result

    # ---- many calls

    def map(self, func: Callable[..., T], iterable: Iterable[Any], chunksize: int | None = None) -> list[T]:
        """The function of each item, in order. Raises the error that came first, when all calls have ended."""
        return self.map_async(func, iterable, chunksize).get()

    def starmap(
        self, func: Callable[..., T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[T]:
        """As `map`; each item holds the arguments of a call."""
        return self.starmap_async(func, iterable, chunksize).get()

    def map_async(self, func: Callable[..., T], iterable: Iterable[Any], chunksize: int | None = None,
                  callback: Callback = None, error_callback: Callback = None) -> MapResult[T]:  # fmt: skip
        """As `map` without waiting. A chunk runs as one task; by default it has 1 to 64 items."""
        return self._map_async(run_chunk, func, iterable, chunksize, callback, error_callback)

    def starmap_async(self, func: Callable[..., T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None,
                      callback: Callback = None, error_callback: Callback = None) -> MapResult[T]:  # fmt: skip
        """As `starmap` without waiting."""
        return self._map_async(run_star_chunk, func, iterable, chunksize, callback, error_callback)

    def _map_async(self, run: Callable[..., Any], func: Callable[..., T], iterable: Iterable[Any],
                   chunksize: int | None, callback: Callback, error_callback: Callback) -> MapResult[T]:  # fmt: skip
        self._check_running()
        items = iterable if isinstance(iterable, Sized) else list(iterable)
        size = self._default_chunk(len(items)) if chunksize is None else chunksize
        if size < 1:
            raise ValueError(f"Chunksize must be 1+, not {size}")
        chunks = list(chunked(items, size))
        result: MapResult[T] = MapResult(len(chunks), callback, error_callback)
        for number, chunk in enumerate(chunks):
            self._window.submit(functools.partial(result.tell_chunk, number), run, (func, chunk), of=func)
        return result

    def _default_chunk(self, items: int) -> int:
        """Some calls a task, which costs less; not many, so that little is repeated when a slot dies."""
        if self._bound:  # each goes only when another is back: fewer and longer ones, as multiprocessing has them
            return max(1, -(-items // (4 * self._bound)))
        return max(1, min(-(-items // _TASKS), _CHUNK_MAX))

    def imap(self, func: Callable[..., T], iterable: Iterable[Any], chunksize: int = 1) -> PoolIterator[T]:
        """The results in order, as an iterator; its `next` takes a timeout. 4096 items at most are read ahead."""
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(self, func: Callable[..., T], iterable: Iterable[Any], chunksize: int = 1) -> PoolIterator[T]:
        """The same in the order in which they come."""
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self, func: Callable[..., T], iterable: Iterable[Any], chunksize: int, *, ordered: bool
    ) -> PoolIterator[T]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        window = self._window
        return PoolIterator(
            lambda tell, chunk: window.submit(tell, run_chunk, (func, chunk), of=func),
            iterable,
            chunksize,
            ordered=ordered,
        )

    # ---- ending

    def close(self) -> None:
        """Take no more calls; those that were taken go on."""
        self._running = False

    def terminate(self) -> None:
        """Take no more calls, withdraw what waits and stop what runs: it ends with `CancelledError`.

        Returns when all that is so and the pool's own farm is closed; in a callback, which is one of those, at once.
        """
        self._running = False
        self._window.abort()
        if not self._window.is_here():
            self.join()

    def join(self) -> None:
        """Wait until every call has ended and been told, and close the pool's own farm.

        Raises: `ValueError` while the pool is open; `RuntimeError` in a callback.
        """
        if self._running:
            raise ValueError("Pool is still running")
        self._window.wait_idle()
        self._window.close()
        if self._own is not None:
            self._own.shutdown()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    def __repr__(self) -> str:
        return f"<farmhand.Pool of {self._farm!r}{'' if self._running else ' closed'}>"
