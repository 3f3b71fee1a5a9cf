"""Futures that are cheap to make by the hundred thousand and still are `concurrent.futures.Future`.

A standard future makes a condition variable at once; most futures of a farm are never waited for while they are pending.
Here the condition is made when somebody first asks for it, under one lock that the settling of results takes too, so
that nobody can start to wait on a future that is settled at that moment without seeing it.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from concurrent.futures import CancelledError, Future
from concurrent.futures._base import CANCELLED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from farmhand.core.tasks import Task, TaskState
from farmhand.errors import TaskKilled
from farmhand.model import limits

if TYPE_CHECKING:
    from farmhand.client.link import Link

_making = threading.Lock()


T = TypeVar("T")


class FarmFuture(Future[T], Generic[T]):
    """A future of a farm. Beyond the standard ones: `kill()` stops the task even while it runs."""

    _node = ""  # that said last that it runs the task

    def __init__(self, driver: Link) -> None:
        self._lazy_condition: threading.Condition | None = None
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._driver: Link | None = driver
        self._session = driver.session_id
        self.number = next(driver.numbers)
        self._task: Task | None = None
        self._entry: Any = None  # packed arguments, until there is an outcome

    @property
    def task_id(self) -> str:
        """`SESSION/NUMBER`, by which `farmhand logs` and `farmhand explain` know the task, also when it is done."""
        return f"{self._session}/{self.number}"

    if not TYPE_CHECKING:  # the standard one is an attribute, and so it is to a type checker

        @property
        def _condition(self) -> threading.Condition:
            condition = self._lazy_condition
            if condition is None:
                with _making:
                    if self._lazy_condition is None:
                        self._lazy_condition = threading.Condition()
                    condition = self._lazy_condition
            return condition

    def result(self, timeout: float | None = None) -> T:
        """As `Future.result`. Ctrl-C is noticed within SIGNAL_S."""
        if timeout is None:
            self._wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Future.exception`. Ctrl-C is noticed within SIGNAL_S."""
        if timeout is None:
            self._wait()
        return super().exception(timeout)

    def _wait(self) -> None:
        """A signal that comes just before a thread begins to wait does not wake it, so it waits a little at a time."""
        if self._state == FINISHED:
            return
        with self._condition:
            while self._state in (PENDING, RUNNING):
                self._condition.wait(limits.SIGNAL_S)

    def running(self) -> bool:
        """Whether the task runs now, as far as its node has said. One that waits for another run does not."""
        task = self._task
        return task is not None and task.state is TaskState.RUNNING and super().running()

    def on_running(self, node: str = "") -> None:
        """A node says that the task runs; perhaps not for the first time."""
        self._node = node
        if self._state == PENDING:
            self.set_running_or_notify_cancel()

    def cancel(self) -> bool:
        """Withdraw the task. False when it is known to run or is done; True means that it has no other outcome."""
        driver, task = self._driver, self._task
        if driver is not None and task is not None and not driver.cancel(task):
            return self.cancelled()
        return self._withdraw()

    def _withdraw(self) -> bool:
        """The core has let go of the task: become cancelled."""
        with self._condition:
            if self._state == RUNNING:  # on a node that was lost, and not again since
                self._state = PENDING
        cancelled = super().cancel()
        if cancelled:
            driver, entry = self._driver, self._entry
            self._release()
            if driver is not None and entry is not None:
                driver.forget(entry)
            with self._condition:  # held, because two threads may cancel at once
                if self._state == CANCELLED:
                    self.set_running_or_notify_cancel()
        return cancelled

    def on_forked(self, error: Exception) -> None:
        """In a forked child, where the lock may belong to a thread that is not there."""
        self._lazy_condition = None
        self._release()
        self._exception, self._state = error, FINISHED

    def __reduce__(self) -> Any:
        raise TypeError("a future belongs to the process that made it; send its result() instead")

    def kill(self, timeout: float | None = None) -> bool:
        """Stop the task wherever it is, with every process it started, and wait until that is confirmed.

        Returns True when it was stopped or cancelled, False when it had ended by itself.
        Raises: `TimeoutError` when nothing is confirmed within `timeout` seconds.
        """
        driver, task = self._driver, self._task
        if driver is None or task is None:
            return self.cancelled() or isinstance(self._exception, TaskKilled)
        if driver.kill(task):
            return self._withdraw()
        try:
            return isinstance(self.exception(timeout), TaskKilled)
        except CancelledError:
            return True

    def __await__(self) -> Generator[Any, None, T]:
        """In a running event loop: `await future`. Cancelling that withdraws the task when it waits, and kills it when it runs."""
        from farmhand.client.awaiting import awaitable

        return awaitable(self).__await__()

    def _said(self) -> tuple[str, str]:
        """The state in a word, and what is known beside it: the task's name and node, the type of the outcome."""
        task, error = self._task, self._exception
        if self._state == FINISHED:
            if error is None:
                return "finished", f"returned {type(self._result).__name__}"
            node = getattr(error, "node", "")
            return "finished", f"raised {type(error).__name__}" + (f" node={node}" if node else "")
        if task is None:
            return ("pending" if self._state == PENDING else "cancelled"), ""
        state = "running" if self.running() else "pending"
        node = f" node={self._node}" if self._node and state == "running" else ""
        return state, f"name={task.group.profile.name}{node}"

    def __repr__(self) -> str:
        state, more = self._said()
        return f"<FarmFuture at {id(self):#x} state={state}{' ' if more else ''}{more}>"

    def _repr_html_(self) -> str:
        import html

        state, more = self._said()
        return f"<b>FarmFuture</b> {state} <code>{html.escape(more)}</code>"

    def _release(self) -> None:
        """Let go of what is no longer needed once there is an outcome."""
        self._entry = None
        self._driver = None
        self._task = None


def share_condition(future: FarmFuture[Any], condition: threading.Condition) -> None:
    """Give a future that no thread ever waits for a condition that it shares with others."""
    with _making:
        if future._lazy_condition is None:
            future._lazy_condition = condition


def settle(pairs: Iterable[tuple[FarmFuture[Any], Any]]) -> None:
    """Set many results. The lock is taken once; futures that somebody waits for are told afterwards."""
    waited: list[tuple[FarmFuture[Any], Any]] = []
    with _making:
        for future, value in pairs:
            future._entry = future._driver = future._task = None
            if future._lazy_condition is None:
                future._result = value
                future._state = FINISHED
            else:
                waited.append((future, value))
    for future, value in waited:
        future.set_result(value)
