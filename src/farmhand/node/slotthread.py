"""A slot that is a thread, for devices where processes cannot start. It speaks the frames of `slotwire` like any other.

A thread cannot be killed. What would kill a slot's process, such as a timeout, makes the agent give the thread up instead: its
frames are not heard any more, the task is reported as a dead slot's is, and another thread takes the slot's place. In the
thread that was given up `GivenUp` is raised, which ends whatever is Python code; C code goes on until it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from farmhand.model import limits
from farmhand.node import slotwire
from farmhand.node.output import Printer
from farmhand.node.slot import Batch, Slot
from farmhand.node.slotproc import Exit, SlotProcess

log = logging.getLogger("farmhand.node")

GIVEN_UP: Final = "given up: this node has no processes, so what runs there cannot be killed"
DIED: Final = "its thread ended by an error of its own"


class GivenUp(BaseException):
    """Raised in a task that its node has given up: its outcome is reported already, and what it does is for nobody."""


class ThreadSlots:
    """The slots of one process, one after the other. `on_stuck` is told when too many threads of given-up tasks go on."""

    def __init__(self, on_stuck: Callable[[], None]) -> None:
        self.streams = Streams()
        self.given_up: list[threading.Thread] = []
        self._on_stuck = on_stuck

    def new(self, *given: Any) -> ThreadSlot:
        """Makes a slot; takes what `SlotProcess` takes."""
        return ThreadSlot(self, *given)

    def give_up(self, thread: threading.Thread) -> None:
        """This thread's work is nobody's any more."""
        _interrupt(thread)
        self.given_up = [each for each in (*self.given_up, thread) if each.is_alive()]
        log.warning("a task was given up; threads of such tasks that may still run: %d", len(self.given_up))
        if len(self.given_up) > limits.GIVEN_UP_MAX:
            self._on_stuck()


class ThreadSlot(SlotProcess):
    """What the agent sees of it: the same as of a process. It has no process id, and nobody knows its memory."""

    def __init__(self, slots: ThreadSlots, *given: Any) -> None:
        super().__init__(*given)
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._progress: bytearray = bytearray(slotwire.PROGRESS.pack(-1, 0))
        self._work: _Work | None = None
        self._thread: threading.Thread
        self._over = False

    async def start(self) -> None:
        """Start the thread."""
        self._work = work = _Work(self.number, self._cache, self._progress, self, self._slots.streams)
        self._thread = threading.Thread(target=self._run, args=(work,), name=f"slot-{self.number}", daemon=True)
        self._thread.start()

    def _run(self, work: _Work) -> None:
        """The thread. Its end is the slot's death unless it was given up before."""
        with contextlib.suppress(GivenUp):
            try:
                work.serve()
            except Exception as error:  # noqa: BLE001 - as a process that ends with a traceback
                work.printer.write_line(2, f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError, GivenUp):  # the loop has ended, and the agent with it
            self._loop.call_soon_threadsafe(self._end, DIED)

    def hear(self, data: bytes) -> None:
        """A frame from the thread."""
        if not self._over:
            self._loop.call_soon_threadsafe(self.on_data, data)

    def write(self, kind: int, payload: bytes | memoryview = b"") -> None:
        """Send one frame. What has come with it is begun in the thread."""
        if self._work is not None and not self._over:
            self._work.frames.feed(slotwire.frame(kind, payload))

    def kill_tree(self) -> None:
        """Give the thread up. `on_exit` follows."""
        work = self._work
        if work is None or self._over:
            return
        self._over = True
        # After what the thread said before, which waits on the loop, and before its own end, which may come at once.
        self._loop.call_soon(self._end, GIVEN_UP)
        work.give_up()
        if work.busy:
            self._slots.give_up(self._thread)

    def _end(self, why: str) -> None:
        if self._work is not None:
            self._over = True
            self._work.give_up()
            self._work = None
            self.flush_printed(partial=True)
            self._on_exit(self, Exit(None, None, why))


class _Work(Slot):
    """The side that runs tasks."""

    printer: _Printer

    def __init__(self, number: int, cache: Path, progress: bytearray, seen: ThreadSlot, streams: Streams) -> None:
        super().__init__(number, cache, progress, _Sink(seen.hear))
        self.printer = _Printer(self._send_output, streams)
        self.busy = False
        self._given_up = False
        self._unsent: tuple[Batch, int] | None = None  # what it was at when it was given up, first index not reported

    def give_up(self) -> None:
        """On the loop. Nothing that it says from now on counts; it ends as soon as the task lets it."""
        if self._given_up:
            return
        self._given_up = True
        with self._lock:
            if (batch := self._batch) is not None:
                batch.pending.clear()
                self._unsent = batch, batch.first
        self._inbox.put(None)
        self._loader.close()

    def _run_batch(self, batch: Batch) -> None:
        self.busy = True
        super()._run_batch(batch)
        self.busy = False

    def serve(self) -> None:
        try:
            super().serve()
        finally:
            self.printer.uninstall()
            if self._unsent is not None:  # a large result that nobody was told of
                batch, first = self._unsent
                for index in range(first, batch.work.count):
                    self._spool_path(batch, index).unlink(missing_ok=True)


class _Sink:
    """Frames on their way to the agent's loop."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def write(self, data: bytes) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._take(data)

    def flush(self) -> None:
        """All is under way."""


class _Printer(Printer):
    """Takes what its own thread prints; what others print goes where it went."""

    def __init__(self, send: Any, streams: Streams) -> None:
        super().__init__(send)
        self._routes = streams

    def install(self) -> None:
        self._routes.add(threading.get_ident(), self._streams)

    def uninstall(self) -> None:
        """The thread ends."""
        self._routes.forget(threading.get_ident())

    def write_line(self, stream: int, text: str) -> None:
        """A line of the slot's own."""
        self.take(stream, [text])


class Streams:
    """`sys.stdout` and `sys.stderr` of a process in which a thread is a slot."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[Any, Any]] = {}  # by thread
        self._before = (sys.stdout, sys.stderr)
        self._own = (_Routed(self._of, 0, sys.stdout), _Routed(self._of, 1, sys.stderr))

    def add(self, thread: int, streams: tuple[Any, Any]) -> None:
        """What this thread prints goes there. Again when a task has replaced the streams."""
        self._of[thread] = streams
        if sys.stdout is not self._own[0] or sys.stderr is not self._own[1]:
            sys.stdout, sys.stderr = self._own

    def forget(self, thread: int) -> None:
        """It has ended."""
        self._of.pop(thread, None)

    def restore(self) -> None:
        """All goes where it went before."""
        if sys.stdout is self._own[0]:
            sys.stdout = self._before[0]
        if sys.stderr is self._own[1]:
            sys.stderr = self._before[1]


class _Routed:
    """A stream that is another one for some threads."""

    def __init__(self, of: dict[int, tuple[Any, Any]], place: int, other: Any) -> None:
        self._of = of
        self._place = place
        self._other = other if other is not None else io.StringIO()  # a program without a console

    def _now(self) -> Any:
        streams = self._of.get(threading.get_ident())
        return self._other if streams is None else streams[self._place]

    def write(self, text: str) -> int:
        """As any stream."""
        written: int = self._now().write(text)
        return written

    def flush(self) -> None:
        """As any stream."""
        self._now().flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now(), name)


def _interrupt(thread: threading.Thread) -> None:
    """Raise `GivenUp` in it, where the interpreter can do so: at the next step of its Python code."""
    try:
        import ctypes

        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    except (ImportError, AttributeError):
        return
    raise_in(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(GivenUp))
