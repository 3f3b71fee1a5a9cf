"""The calls that a neighbour has under way on a farm: at most so many at once, and where their outcomes are told.

A neighbour's callback may submit again, iterate over a generator of the user's or take long. On the session's thread,
which carries the farm's messages, nothing of that may happen; so a window tells outcomes on a thread of its own.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import msgspec

from farmhand import errors
from farmhand.client.farm import Farm, FarmView
from farmhand.client.futures import FarmFuture
from farmhand.model import limits

log = logging.getLogger("farmhand.neighbours")

Tell = Callable[[Future[Any]], object]


class _Call(NamedTuple):
    tell: Tell
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    name: str


class Window:
    """Submits to a farm. Every call is told once, on the window's thread, with a future that is done.

    bound: how many calls are on the farm at once; the others wait here. 0: as many as there are.
    """

    def __init__(self, farm: Farm | FarmView, bound: int = 0) -> None:
        self.bound = bound
        self._farm = farm
        self._waiting: deque[_Call] = deque()
        self._under_way: dict[Future[Any], Tell] = {}
        self._lock = threading.RLock()  # a generator of joblib that is collected while it is held aborts its calls
        self._untold = 0
        self._idle = threading.Condition(self._lock)
        self._done: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._tell_all, name="farmhand-neighbour", daemon=True)
        self._thread.start()

    def submit(self, tell: Tell, function: Callable[..., Any], args: tuple[Any, ...] = (),
               kwargs: Mapping[str, Any] | None = None, of: Any = None) -> None:  # fmt: skip
        """Run a call on the farm when there is room. What `Farm.submit` raises becomes its outcome.

        of: the user's function, when `function` runs that. The call has its name, and the farm learns how long calls of that
        name take: it must not learn it of what all have in common.
        Raises: `FarmClosed` after `close`, and in a forked child.
        """
        if not self._thread.is_alive():
            raise errors.FarmClosed("nobody would hear of the call: this was closed, or belongs to the parent process")
        call = _Call(tell, function, args, kwargs or {}, "" if of is None else _name_of(of))
        with self._lock:
            self._untold += 1
            if self._is_full():
                self._waiting.append(call)
            else:
                self._start(call)

    def _is_full(self) -> bool:
        return 0 < self.bound <= len(self._under_way)

    def _start(self, call: _Call) -> None:
        future: Future[Any]
        try:
            options = self._farm._options
            if call.name and not options.name:
                options = msgspec.structs.replace(options, name=call.name)
            future = self._farm._farm._submit(options, call.function, call.args, dict(call.kwargs))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the outcome
            future = Future()
            future.set_exception(error)
        self._under_way[future] = call.tell
        future.add_done_callback(self._done.put)

    def abort(self, unwanted: Callable[[Tell], bool] = lambda tell: True) -> None:
        """Withdraw what waits and stop what runs, of those that would be told so. Each is told with its `CancelledError`."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            for call in waiting:
                if not unwanted(call.tell):
                    self._waiting.append(call)
                    continue
                future: Future[Any] = Future()
                future.cancel()
                future.set_running_or_notify_cancel()
                self._under_way[future] = call.tell
                self._done.put(future)
            running = [f for f, tell in list(self._under_way.items()) if isinstance(f, FarmFuture) and unwanted(tell)]
        for future in running:
            with contextlib.suppress(TimeoutError):
                future.kill(0)  # asks for it; nobody waits for the confirmation here

    def wait_idle(self) -> None:
        """Return when every call so far has been told. Raises `RuntimeError` on the window's own thread."""
        if self.is_here():
            raise RuntimeError("a callback cannot wait for itself")
        with self._lock:
            while self._untold:
                self._idle.wait(limits.SIGNAL_S)  # so that Ctrl-C is noticed

    def is_here(self) -> bool:
        """Whether this is the window's thread: a callback runs."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End the thread after what is done by now. Calls under way are not told any more."""
        self._done.put(None)

    def _tell_all(self) -> None:
        while (future := self._done.get()) is not None:
            with self._lock:
                tell = self._under_way.pop(future)
                while self._waiting and not self._is_full():
                    self._start(self._waiting.popleft())
            try:
                tell(future)
            except Exception:
                log.exception("a callback failed")
            del future, tell  # who was told may be forgotten while the next is waited for
            with self._lock:
                self._untold -= 1
                self._idle.notify_all()


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def slots_of(farm: Farm | FarmView) -> int:
    """How many slots a farm has now. Raises `EngineError` when it cannot be asked."""
    whole = farm._farm
    if whole._embedded is not None:
        return whole._max_workers
    return sum(int(node["slots"]) for node in whole.status()["nodes"])
