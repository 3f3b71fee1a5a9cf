"""From a report to outcomes: values, exceptions, and the errors that stand for a crash, a timeout or a kill."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from farmhand import errors
from farmhand.client.futures import FarmFuture, settle
from farmhand.client.sending import Large
from farmhand.code.failure import unpack_exception
from farmhand.code.values import load_from, unpack_result, unpack_values
from farmhand.core import session as core
from farmhand.engine import blobs
from farmhand.model.messages import Report
from farmhand.model.outcome import BlobRef, Kind, Mark

if TYPE_CHECKING:
    from farmhand.client.driver import Driver

_DECODE_INLINE_BYTES: Final = 64 * 1024  # larger values are unpickled on another thread, so that the loop stays awake
_CHUNKS_AHEAD: Final = 16

_ERRORS: Final[dict[Kind, type[errors.TaskError]]] = {
    Kind.CRASHED: errors.TaskCrashed,
    Kind.TIMED_OUT: errors.TaskTimedOut,
    Kind.OUT_OF_MEMORY: errors.TaskOutOfMemory,
    Kind.KILLED: errors.TaskKilled,
    Kind.LOST: errors.TaskCrashed,
    Kind.REFUSED: errors.TaskRefused,
    Kind.INITIALIZER: errors.InitializerFailed,
}


class Body:
    """What a report carries: its entries, and references to values beside it by index."""

    __slots__ = ("blobs", "entries", "node", "problem", "slot")

    def __init__(self, report: Report, body: memoryview) -> None:
        self.node, self.slot = report.node, report.slot
        self.blobs: dict[int, BlobRef] = {ref.index: ref for ref in report.blobs}
        self.entries: list[Any] = []
        self.problem = ""
        if len(body):
            try:
                self.entries = unpack_values(body)
            except Exception as error:
                self.problem = f"{type(error).__name__}: {error}"


class Results:
    """Ends futures. Runs on the loop; only large values are opened on other threads."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def read(self, report: Report, body: memoryview) -> Body:
        """Open a report's body."""
        return Body(report, body)

    def deliver(self, effect: core.Delivered, body: Body) -> None:
        """These tasks succeeded."""
        ready: list[tuple[FarmFuture, Any]] = []
        for task, position in effect.values:
            future: FarmFuture = task.cargo
            entry = body.entries[position] if position < len(body.entries) else b""
            if type(entry) is tuple:
                if type(future._entry) is Large:
                    self._forget(future._entry)
                ready.append((future, entry[0]))
            elif entry is None and task.index in body.blobs:
                self._driver.spawn(self._fetch(future, body.blobs[task.index]))
            elif len(entry) > _DECODE_INLINE_BYTES:
                self._driver.spawn(self._open_aside(future, lambda entry=entry: unpack_result(entry)))
            else:
                self._open(future, lambda entry=entry: unpack_result(entry))
        if ready:
            settle(ready)

    def _open(self, future: FarmFuture, read: Callable[[], Any]) -> None:
        """Set a future to what `read` gives or raises."""
        if type(future._entry) is Large:
            self._forget(future._entry)
        try:
            value = read()
        except BaseException as error:
            future._release()
            future.set_exception(_decode_error(error))
        else:
            settle([(future, value)])

    async def _open_aside(self, future: FarmFuture, read: Callable[[], Any]) -> None:
        await asyncio.to_thread(self._open, future, read)

    async def _fetch(self, future: FarmFuture, ref: BlobRef) -> None:
        """A large value: from a file on this machine, or streamed from the engine straight into the unpickler."""
        if ref.path:
            await asyncio.to_thread(self._open, future, lambda: _read_file(Path(ref.path)))
            return
        driver = self._driver
        pipe = ChunkPipe()
        opened = driver.loop.run_in_executor(None, self._open, future, lambda: load_from(pipe))
        try:
            async for chunk in blobs.read(driver.connection, driver.session_id, ref.id, ref.size):
                await asyncio.to_thread(pipe.put, chunk)
            await asyncio.to_thread(pipe.put, None)
        except (errors.EngineError, TimeoutError) as error:
            await asyncio.to_thread(pipe.put, error)
        await opened
        await blobs.remove(driver.connection, driver.session_id, ref.id)

    def end(self, effect: core.Ended, body: Body) -> None:
        """This task did not succeed."""
        future: FarmFuture = effect.task.cargo
        if type(future._entry) is Large:
            self._forget(future._entry)
        mark = effect.mark
        if mark.kind is Kind.RAISED and 0 <= effect.position < len(body.entries):
            error = unpack_exception(body.entries[effect.position])
        else:
            error = _task_error(effect, body.problem)
        future._release()
        future.set_exception(error)
        if mark.kind is Kind.INITIALIZER and isinstance(error, Exception):
            self._driver.break_all(error)

    def _forget(self, large: Large) -> None:
        """Large arguments are no longer needed."""
        if large.path:
            Path(large.path).unlink(missing_ok=True)
        else:
            self._driver.spawn(self._remove(large.id))

    async def _remove(self, blob_id: str) -> None:
        try:
            await blobs.remove(self._driver.connection, self._driver.session_id, blob_id)
        except (errors.EngineError, TimeoutError):
            pass  # the steward forgets all of the session's blobs at its end


class ChunkPipe:
    """A file for the unpickler, fed chunk by chunk from the loop. At most `_CHUNKS_AHEAD` chunks are in memory."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(_CHUNKS_AHEAD)
        self._view = memoryview(b"")

    def put(self, item: bytes | bytearray | Exception | None) -> None:
        """Add a chunk, or how it ended; waits while the reader is behind."""
        self._queue.put(item)

    def _more(self) -> bool:
        if not self._view:
            item = self._queue.get()
            if isinstance(item, Exception):
                raise item
            self._view = memoryview(item if item is not None else b"")
        return bool(self._view)

    def readinto(self, target: Any) -> int:
        """Fill `target`."""
        view = memoryview(target).cast("B")
        done = 0
        while done < len(view) and self._more():
            count = min(len(self._view), len(view) - done)
            view[done : done + count] = self._view[:count]
            self._view = self._view[count:]
            done += count
        return done

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes unless the end comes first."""
        data = bytearray(size)
        return bytes(data[: self.readinto(data)])

    def readline(self) -> bytes:
        """Protocol 5 has no lines; the unpickler only insists that this exists."""
        line = bytearray()
        while self._more():
            byte = self.read(1)
            line += byte
            if byte == b"\n":
                break
        return bytes(line)


def _read_file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return load_from(file)
    finally:
        path.unlink(missing_ok=True)


def _decode_error(error: BaseException) -> BaseException:
    if isinstance(error, errors.FarmhandError):
        return error
    wrapped = errors.ResultUndecodable(f"the task succeeded, but its result cannot be unpickled here: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _task_error(effect: core.Ended, problem: str) -> errors.TaskError:
    """The error that stands for an end without an exception of the task's own."""
    mark: Mark = effect.mark
    task = effect.task
    name = task.group.profile.name or "task"
    text = _say(mark, task.group.profile.timeout, problem)
    error = _ERRORS.get(mark.kind, errors.TaskFailed)(f"{name}: {text}")
    error.node, error.slot, error.attempt = effect.node, effect.slot, task.attempts
    error.exit_code, error.signal = mark.exit_code, mark.signal
    error.peak_memory, error.tail = mark.peak_memory, mark.tail
    if task.attempts > 1:
        error.add_note(f"It was attempted {task.attempts} times.")
    if mark.peak_memory:
        error.add_note(f"Its slot's peak memory was {mark.peak_memory / 1024**2:.0f} MB.")
    if mark.tail:
        error.add_note("The last lines it printed:\n  " + "\n  ".join(mark.tail))
    return error


def _say(mark: Mark, timeout: float, problem: str) -> str:
    match mark.kind:
        case Kind.TIMED_OUT:
            return f"ran longer than its timeout of {timeout:g} s and was stopped ({mark.text})"
        case Kind.OUT_OF_MEMORY:
            return f"used more memory than it said it needs and was stopped ({mark.text})"
        case Kind.KILLED:
            return "was stopped while it ran"
        case Kind.RAISED:
            return f"raised {mark.text}, which could not be read here ({problem})"
        case _:
            return mark.text or mark.kind.name.lower()
