"""Futures of tasks that a task has submitted: waiting for one lends the place of the task that waits."""

from __future__ import annotations

import threading
import time
from concurrent.futures import InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from farmhand import errors
from farmhand.client.futures import FarmFuture, settle
from farmhand.client.verdict import End, raised, task_error
from farmhand.code.container import load_path
from farmhand.code.values import unpack_result
from farmhand.model.messages import Profile
from farmhand.model.nested import Event, What
from farmhand.model.outcome import Kind

if TYPE_CHECKING:
    from farmhand.client.current import CurrentFarm

T = TypeVar("T")


class _Waiters(list[Any]):
    """`concurrent.futures.wait` and `as_completed` leave here what they wait on: their waiting shows by it."""

    __slots__ = ("_farm",)

    def __init__(self, farm: CurrentFarm) -> None:
        super().__init__()
        self._farm = farm

    def append(self, waiter: Any) -> None:
        if not isinstance(waiter.event, _Event):
            waiter.event = _Event(self._farm, waiter.event)
        super().append(waiter)


class _Event:
    """An event whose waiting lends the place."""

    __slots__ = ("_event", "_farm", "clear", "is_set", "set")

    def __init__(self, farm: CurrentFarm, event: threading.Event) -> None:
        self._farm = farm
        self._event = event
        self.set, self.clear, self.is_set = event.set, event.clear, event.is_set

    def wait(self, timeout: float | None = None) -> bool:
        began = time.monotonic()
        if self._event.wait(self._farm.patience(timeout)):
            return True
        with self._farm.waiting():
            return self._event.wait(None if timeout is None else max(0.0, timeout - (time.monotonic() - began)))


class ChildFuture(FarmFuture[T]):
    """A future of a task that a task has submitted."""

    def __init__(self, farm: CurrentFarm) -> None:
        super().__init__(farm)  # type: ignore[arg-type]
        self._waiters = _Waiters(farm)
        self._farm = farm

    @property
    def task_id(self) -> str:
        """Empty: only its session knows."""
        return ""

    def result(self, timeout: float | None = None) -> T:
        """As `Future.result`; the place of this task is lent meanwhile."""
        began = time.monotonic()
        self._look(timeout)
        if self.done():
            return super().result(0)
        with self._farm.waiting():
            return super().result(None if timeout is None else max(0.0, timeout - (time.monotonic() - began)))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Future.exception`; the place of this task is lent meanwhile."""
        began = time.monotonic()
        self._look(timeout)
        if self.done():
            return super().exception(0)
        with self._farm.waiting():
            return super().exception(None if timeout is None else max(0.0, timeout - (time.monotonic() - began)))

    def _look(self, timeout: float | None) -> None:
        """Send what is unsent, and wait for as long as is not worth lending."""
        if not self.done():
            pause = self._farm.patience(timeout)
            with self._condition:
                if not self.done():
                    self._condition.wait(pause)

    def __reduce__(self) -> Any:
        raise TypeError("a future belongs to the task that made it; return or pass on its result()")


def settle_child(future: ChildFuture[Any], event: Event, profile: Profile) -> None:
    """A child has its outcome. Unpickling runs the user's code."""
    try:
        if event.what is What.SUCCEEDED:
            value = _open_file(event.blob.path) if event.blob is not None else unpack_result(_entry_of(event.entry))
            settle([(future, value)])
        else:
            fail_child(future, _error_of(event, profile))
    except InvalidStateError:
        pass  # cancelled meanwhile
    except BaseException as error:  # noqa: BLE001 - unpickling runs user code; the future must end
        fail_child(future, error)


def _entry_of(entry: Any) -> Any:
    """A plain value is a tuple on the way, and a list when it comes."""
    return tuple(entry) if type(entry) is list else entry


def _open_file(path: str) -> Any:
    try:
        return load_path(path, writable=True)
    finally:
        with suppress(PermissionError):  # Windows: it is mapped, and goes with its folder
            Path(path).unlink(missing_ok=True)


def _error_of(event: Event, profile: Profile) -> BaseException:
    if event.what is What.REFUSED or event.mark is None:
        made: BaseException = getattr(errors, event.kind, errors.TaskFailed)(event.text)
        return made
    end = End(profile.name, profile.timeout, event.mark, event.node, event.slot, event.attempts)
    if event.mark.kind is Kind.RAISED and isinstance(event.entry, bytes):
        return raised(end, event.entry)
    return task_error(end, "")


def fail_child(future: ChildFuture[Any], error: BaseException) -> None:
    """End a future with an error, unless it has an outcome."""
    with suppress(InvalidStateError):
        future.set_exception(error)
    future._release()
