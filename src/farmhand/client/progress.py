"""`farm.progress`: futures as they end, and a bar that is updated in place, on a terminal and in a notebook.

A terminal gets rich's bar on standard error. A notebook gets an HTML progress element in one display that is updated; it
needs neither ipywidgets nor JavaScript. Where standard error is a file or a pipe, the last state is written there once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, as_completed
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

F = TypeVar("F", bound="Outcome")

UPDATE_S: Final = 0.1  # between two updates of a notebook's bar


class Outcome(Protocol):
    """What a future of `concurrent.futures` and one of asyncio have in common."""

    def cancelled(self) -> bool:
        """Whether it was cancelled."""

    def exception(self) -> BaseException | None:
        """What was raised. Only asked when it is done and was not cancelled."""


class Bar:
    """Counts futures that have ended. Use it as a context: leaving it shows the last state."""

    def __init__(self, total: int, title: str = "") -> None:
        self.total = total
        self.title = title
        self.done = 0
        self.failed = 0  # of those that are done; cancelled ones are among them
        self._began = time.monotonic()
        self._show: Callable[[bool], None] = lambda last: None
        self._close: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if in_notebook():
            self._begin_in_notebook()
        else:
            self._begin_on_terminal()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show(True)
        self._close()

    def count(self, future: F) -> F:
        """One more has ended."""
        self.done += 1
        self.failed += future.cancelled() or future.exception() is not None
        self._show(False)
        return future

    def _begin_on_terminal(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"),
                   TimeRemainingColumn(compact=True, elapsed_when_finished=True))  # fmt: skip
        rich = Progress(*columns, console=Console(stderr=True))
        row = rich.add_task(self.title, total=self.total, more="")
        rich.start()
        self._show = lambda last: rich.update(row, completed=self.done, more=self._failures())
        self._close = rich.stop

    def _begin_in_notebook(self) -> None:
        import importlib

        display = importlib.import_module("IPython.display").display  # no dependency: whoever is in a notebook has it
        handle = display(self, display_id=True)
        shown_at = time.monotonic()

        def show(last: bool) -> None:
            nonlocal shown_at
            now = time.monotonic()
            if last or now - shown_at >= UPDATE_S:
                shown_at = now
                handle.update(self)

        self._show = show

    def _failures(self) -> str:
        return f"{self.failed} failed" if self.failed else ""

    def _text(self) -> str:
        seconds = time.monotonic() - self._began
        left = ""
        if 0 < self.done < self.total:
            left = f"{_clock(seconds * (self.total - self.done) / self.done)} left"
        parts = (f"{self.done}/{self.total}", self._failures(), _clock(seconds), left)
        return " · ".join(part for part in parts if part)

    def __repr__(self) -> str:
        return f"{self.title} {self._text()}".strip()

    def _repr_html_(self) -> str:
        import html

        return (
            f'<div>{html.escape(self.title)} <progress value="{self.done}" max="{max(self.total, 1)}"></progress> '
            f"{self._text()}</div>"
        )


def _clock(seconds: float) -> str:
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


def in_notebook() -> bool:
    """Whether this is an IPython shell that shows HTML: any but the one on a terminal."""
    ipython = sys.modules.get("IPython")  # who runs in it has imported it
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and all(kind.__name__ != "TerminalInteractiveShell" for kind in type(shell).__mro__)


def progress(futures: Collection[Future[Any]], title: str) -> Iterator[Any]:
    """Yield each future when it is done, and show how many are."""
    with Bar(len(futures), title) as bar:
        for future in as_completed(futures):
            yield bar.count(future)
