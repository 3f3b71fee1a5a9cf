"""From a report to outcomes: values, exceptions, and the errors that stand for a crash, a timeout or a kill."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import InvalidStateError
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
from farmhand.model.named import Settled
from farmhand.model.outcome import BlobRef, Kind, Mark

if TYPE_CHECKING:
    from farmhand.client.link import Link

log = logging.getLogger("farmhand.client")

_DECODE_INLINE_BYTES: Final = 64 * 1024  # larger values are unpickled on another thread, so that the loop stays awake
_CHUNKS_AHEAD: Final = 16
_STREAMS_MAX: Final = 2  # values read from the engine at once; each may hold two of the loop's few threads

_ERRORS: Final[dict[Kind, type[errors.TaskError]]] = {
    Kind.CRASHED: errors.TaskCrashed,
    Kind.TIMED_OUT: errors.TaskTimedOut,
    Kind.OUT_OF_MEMORY: errors.TaskOutOfMemory,
    Kind.KILLED: errors.TaskKilled,
    Kind.LOST: errors.TaskCrashed,
    Kind.REFUSED: errors.TaskRefused,
    Kind.INITIALIZER: errors.InitializerFailed,
    Kind.ENVIRONMENT: errors.EnvironmentFailed,
}


class Body:
    """What a report carries: its entries, and references to values beside it by index."""

    __slots__ = ("blobs", "entries", "node", "problem", "slot")

    def __init__(self, report: Report | Settled, body: memoryview) -> None:
        self.node, self.slot = report.node, report.slot
        self.blobs: dict[int, BlobRef] = {ref.index: ref for ref in report.blobs}
        self.entries: list[Any] = []
        self.problem = ""
        if len(body):
            try:
                self.entries = unpack_values(body)
            except Exception as error:  # noqa: BLE001 - whatever the bytes are, the futures must end
                self.problem = f"{type(error).__name__}: {error}"


class Value:
    """What unpickling gave or raised."""

    __slots__ = ("_error", "_value")

    def __init__(self, load: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        try:
            self._value = load()
        except BaseException as error:  # noqa: BLE001 - unpickling runs user code
            self._error = error

    def get(self) -> Any:
        """The value. Raises what was raised."""
        if self._error is not None:
            raise self._error
        return self._value


class Results:
    """Ends futures. Runs on the loop; only large values are opened on other threads."""

    def __init__(self, driver: Link) -> None:
        self._driver = driver
        self._streams = asyncio.Semaphore(_STREAMS_MAX)
        self._fetched: set[str] = set()  # values that are on their way

    def read(self, report: Report, body: memoryview) -> Body:
        """Open a report's body."""
        return Body(report, body)

    def deliver(self, effect: core.Delivered, body: Body) -> None:
        """These tasks succeeded."""
        ready: list[tuple[FarmFuture[Any], Any]] = []
        for task, position in effect.values:
            future: FarmFuture[Any] = task.cargo
            if type(future._entry) is Large:
                self.forget(future._entry)
            entry = body.entries[position] if position < len(body.entries) else b""
            if type(entry) is tuple:
                ready.append((future, entry[0]))
            else:
                self.take(future, entry, body.blobs.pop(task.index, None))
        if ready:
            settle(ready)

    def take(self, future: FarmFuture[Any], entry: bytes | None, ref: BlobRef | None) -> None:
        """End a future with a value that is pickled here, or beside the message."""
        if entry is None:
            if ref is not None:
                self._fetched.add(ref.id)  # at once: the next report may be the same one
            self._later(future, self._fetch(future, ref))
        elif len(entry) > _DECODE_INLINE_BYTES:
            self._later(future, asyncio.to_thread(self._open, future, functools.partial(unpack_result, entry)))
        else:
            self._open(future, functools.partial(unpack_result, entry))

    def discard(self, body: Body) -> None:
        """Remove values that came for nobody: their tasks were cancelled, or ended by another attempt."""
        for ref in body.blobs.values():
            if ref.id in self._fetched:  # the same report once more, after the farm was put back from a backup
                continue
            self.forget(Large(ref.id, ref.size, ref.path))

    def _open(self, future: FarmFuture[Any], read: Callable[[], Any]) -> None:
        """Set a future to what `read` gives or raises."""
        try:
            value = read()
        except BaseException as error:  # noqa: BLE001 - unpickling runs user code; the future must end
            self.fail(future, _decode_error(error))
        else:
            settle([(future, value)])

    def fail(self, future: FarmFuture[Any], error: BaseException) -> None:
        """End a future with an error, unless it has an outcome."""
        with contextlib.suppress(InvalidStateError):
            future.set_exception(error)
        future._release()

    def _later(self, future: FarmFuture[Any], work: Coroutine[Any, Any, None]) -> None:
        """Let `work` end the future; it counts as open until then."""
        self._driver.fetching.add(future)
        self._driver.spawn(self._finish(future, work))

    async def _finish(self, future: FarmFuture[Any], work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BaseException as error:
            self.fail(future, error if isinstance(error, Exception) else errors.FarmClosed())
            if not isinstance(error, Exception):
                raise
        finally:
            self._driver.fetching.discard(future)
            self._driver.wake_waiters()

    async def _fetch(self, future: FarmFuture[Any], ref: BlobRef | None) -> None:
        """A large value: from a file on this machine, or streamed from the engine straight into the unpickler."""
        if ref is None:
            raise errors.ResultUndecodable("the task succeeded, but its report lacks the value")
        try:
            await self._fetch_value(future, ref)
        finally:
            self._fetched.discard(ref.id)

    async def _fetch_value(self, future: FarmFuture[Any], ref: BlobRef) -> None:
        if ref.path:
            await asyncio.to_thread(self._open, future, lambda: _read_file(Path(ref.path)))
            return
        async with self._streams:
            value = await blobs.patiently(self._driver.connection, lambda _: self._read(ref))
        self._open(future, value.get)
        del value
        await self.on_read(ref)

    async def _read(self, ref: BlobRef) -> Value:
        """Stream a value out of the engine. Raises what the engine says; what unpickling raises comes with the value."""
        driver = self._driver
        pipe = ChunkPipe()
        opened = driver.loop.run_in_executor(None, Value, pipe.load)
        try:
            async for chunk in blobs.read(driver.connection, driver.session_id, ref.id, ref.size):
                if not pipe.offer(chunk):
                    await asyncio.to_thread(pipe.put, chunk)
            await asyncio.to_thread(pipe.put, None)
        except BaseException:
            pipe.close(errors.FarmClosed())
            raise
        return await opened

    def end(self, effect: core.Ended, body: Body | None) -> None:
        """This task did not succeed. Without a body it was no report that ended it."""
        future: FarmFuture[Any] = effect.task.cargo
        self._driver.on_failed(effect)
        if type(future._entry) is Large:
            self.forget(future._entry)
        mark = effect.mark
        if body is not None and mark.kind is Kind.RAISED and 0 <= effect.position < len(body.entries):
            error = unpack_exception(body.entries[effect.position])
            with contextlib.suppress(Exception):  # a class of the user's may refuse attributes
                error.add_note(_where(effect))
        else:
            error = _task_error(effect, body.problem if body is not None else "")
        future._release()
        future.set_exception(error)
        if mark.kind is Kind.INITIALIZER and isinstance(error, Exception) and self._driver.broken is None:
            self._driver.on_initializer_failed(error)

    def forget(self, large: Large) -> None:
        """Large arguments are no longer needed."""
        if large.path:
            Path(large.path).unlink(missing_ok=True)
        else:
            self._driver.spawn(self.remove(large.id))

    async def on_read(self, ref: BlobRef) -> None:
        """A large value has been read."""
        await self.remove(ref.id)

    async def remove(self, blob_id: str) -> None:
        """Have the engine forget a large argument or result of this session."""
        with contextlib.suppress(errors.EngineError, TimeoutError):  # the steward forgets all of a session's at its end
            await blobs.remove(self._driver.connection, self._driver.session_id, blob_id)


class KeptResults(Results):
    """The same for a named session, which keeps its large values: others may read them too."""

    def forget(self, large: Large) -> None:
        """They stay."""

    async def on_read(self, ref: BlobRef) -> None:
        """It stays."""


class ChunkPipe:
    """A file for the unpickler, fed chunk by chunk from the loop. At most `_CHUNKS_AHEAD` chunks are in memory."""

    def __init__(self) -> None:
        self._room = threading.Semaphore(_CHUNKS_AHEAD)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._read_out = False  # nobody reads any more
        self._view = memoryview(b"")

    def put(self, item: bytes | memoryview | None) -> None:
        """Add a chunk, or None for the end; waits while the reader is behind."""
        if not self._read_out:
            self._room.acquire()
            self._queue.put(item)

    def offer(self, item: bytes | memoryview) -> bool:
        """The same without waiting: False when the reader is behind."""
        if not self._room.acquire(blocking=False):
            return False
        self._queue.put(item)
        return True

    def close(self, error: Exception) -> None:
        """End the reading with an error; never waits."""
        self._queue.put(error)

    def load(self) -> Any:
        """The value that the chunks are. The writer never waits for a reader that has given up."""
        try:
            return load_from(self)
        finally:
            self._read_out = True
            self._room.release(_CHUNKS_AHEAD)

    def _more(self) -> bool:
        if not self._view:
            item = self._queue.get()
            self._room.release()
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
    wrapped = errors.ResultUndecodable(
        f"the task succeeded, but its result cannot be unpickled here: {type(error).__name__}: {error}"
    )
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
    error.add_note(_where(effect))
    error.exit_code, error.signal = mark.exit_code, mark.signal
    error.peak_memory, error.tail = mark.peak_memory, mark.tail
    if mark.peak_memory:
        error.add_note(f"Its slot's peak memory was {mark.peak_memory / 1024**2:.0f} MB.")
    if mark.tail:
        error.add_note("The last lines it printed:\n  " + "\n  ".join(mark.tail))
    return error


def _where(effect: core.Ended) -> str:
    """Where a task ended, for people."""
    task = effect.task
    place = f"node {effect.node}, slot {effect.slot}" if effect.slot >= 0 else "no node"
    return f"Task {task.group.profile.name or 'task'!r} on {place}, attempt {task.attempts} ({task.cargo.task_id})."


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
