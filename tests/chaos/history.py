"""What happened to the tasks: effects that they left in files, outcomes that their futures were given."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any


class Effects:
    """Counts the traces that `work.effect` leaves."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = str(folder)

    def count(self) -> Counter[int]:
        """How often each number ran. A process that was killed while it wrote may have left half a line."""
        found: Counter[int] = Counter()
        for path in Path(self.folder).iterdir():
            *lines, _rest = path.read_bytes().split(b"\n")
            found.update(int(line) for line in lines)
        return found


class History:
    """Follows futures: each must be given one outcome, which is the right one and never changes."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self._outcomes: Counter[int] = Counter()
        self._first: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._at: list[tuple[int, Callable[[], None]]] = []
        self._done = 0

    def at(self, outcomes: int, action: Callable[[], None]) -> None:
        """Call `action`, on another thread, when so many outcomes are there."""
        self._at.append((outcomes, action))
        self._at.sort(key=lambda pair: -pair[0])

    def follow(self, number: int, future: Future[Any]) -> None:
        """`future` is to end with `number`."""
        self.futures.append(future)
        future.add_done_callback(lambda done: self._on_outcome(number, done))

    def _on_outcome(self, number: int, future: Future[Any]) -> None:
        due: list[Callable[[], None]] = []
        with self._lock:
            self._outcomes[number] += 1
            self._first.setdefault(number, _outcome(future))
            self._done += 1
            while self._at and self._at[-1][0] <= self._done:
                due.append(self._at.pop()[1])
        for action in due:
            threading.Thread(target=action, daemon=True).start()

    def check(self, effects: Effects | None = None, timeout: float = 100.0) -> Counter[int]:
        """Wait for every outcome, then see that all is as promised. How often each task ran."""
        for number, future in enumerate(self.futures):
            assert future.result(timeout) == number
        assert all(self._outcomes[number] == 1 for number in range(len(self.futures)))
        assert all(self._first[number] == _outcome(future) for number, future in enumerate(self.futures))
        if effects is None:
            return Counter()
        ran = effects.count()
        assert set(range(len(self.futures))) <= set(ran), "a task has an outcome and did not run"
        return ran


def _outcome(future: Future[Any]) -> Any:
    return (
        ("cancelled",)
        if future.cancelled()
        else (future.exception(0), future.result(0) if not future.exception(0) else None)
    )
