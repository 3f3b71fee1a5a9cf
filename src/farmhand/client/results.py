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
from typing import TYPE_CHECKING, Any, Final

from farmhand import errors
from farmhand.client.futures import FarmFuture, note_packed, settle, settling
from farmhand.client.inputs import Source
from farmhand.client.large import Large, remove_file
from farmhand.client.verdict import End, raised, task_error
from farmhand.code.container import load_path, load_view
from farmhand.code.memory import fresh_view
from farmhand.code.values import load_from, unpack_result, unpack_values
from farmhand.core import session as core
from farmhand.core.family import Child
from farmhand.engine import blobs, subjects
from farmhand.engine.children import Children
from farmhand.model import messages
from farmhand.model.messages import Control, Report
from farmhand.model.named import Settled
from farmhand.model.outcome import BlobRef, Kind

if TYPE_CHECKING:
    from farmhand.client.link import Link

log = logging.getLogger("farmhand.client")

_DECODE_INLINE_BYTES: Final = 64 * 1024  # larger values are unpickled on another thread, so that the loop stays awake
_CHUNKS_AHEAD: Final = 16
_STREAMS_MAX: Final = 2  # values read from the engine at once; each may hold two of the loop's few threads


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
        self.children: Children | None = None  # of tasks that submit, where the session has such
        self._streams = asyncio.Semaphore(_STREAMS_MAX)
        self._fetched: set[str] = set()  # values that are on their way

    def read(self, report: Report, body: memoryview) -> Body:
        """Open a report's body."""
        return Body(report, body)

    def deliver(self, effect: core.Delivered, body: Body) -> None:
        """These tasks succeeded."""
        ready: list[tuple[FarmFuture[Any], Any]] = []
        packed: list[tuple[FarmFuture[Any], Any]] = []
        for task, position in effect.values:
            future: FarmFuture[Any] = task.cargo
            entry = body.entries[position] if position < len(body.entries) else b""
            if type(task.cargo) is Child and self.children is not None:
                self.children.on_value(
                    task.cargo, entry, None if entry is not None else body.blobs.pop(task.index, None)
                )
                continue
            if type(future._entry) is Large:
                self.forget(future._entry)
            if type(entry) is tuple:
                ready.append((future, entry[0]))
            elif entry is None:
                self.on_large(future, task.group.profile.name, body.blobs.pop(task.index, None))
            else:
                packed.append((future, entry))
        if ready:
            settle(ready)
        note_packed(packed)
        for future, entry in packed:
            self.take(future, entry, None)

    def on_large(self, future: FarmFuture[Any], name: str, ref: BlobRef | None) -> None:
        """A large value is there. Unless somebody has asked for it, it stays there: it may only serve other calls."""
        if ref is None:
            self.fail(future, errors.ResultUndecodable("the task succeeded, but its report lacks the value"))
            return
        large = Large(ref.id, ref.size, ref.path, mapped=ref.mapped)
        with settling:
            if future._source is None:
                future._source = Source(f"the result of {name!r}", driver=self._driver)
            future._source.lies(large, self._driver)
            future._source.task = None
            future._inputs, future._entry, future._task = (), None, None
            future._left = future._stays and future._lazy_condition is None
        if future._left:
            self._driver.left.add(future)
        else:
            self._later(future, self._fetch_source(future, future._source))

    def fetch_left(self, future: FarmFuture[Any]) -> None:
        """Somebody asks for a value that was left on the farm. Others that serve no call are most likely asked for next."""
        for one in [future, *(other for other in self._driver.left if not other.serves)]:
            if one._left and one._source is not None:
                one._left = False
                self._driver.left.discard(one)
                self._later(one, self._fetch_source(one, one._source))

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
            if ref.id in self._fetched or self._driver.keeps(
                ref.id
            ):  # the same report once more, after the farm was put back from a backup
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

    async def _fetch_source(self, future: FarmFuture[Any], source: Source) -> None:
        """A large value that may serve calls: from a file on this machine, or streamed from the engine."""
        large = source.large
        assert large is not None
        if large.path:
            await asyncio.to_thread(self._open, future, functools.partial(load_path, large.path, writable=True))
        else:
            async with self._streams:
                value = await blobs.patiently(self._driver.connection, lambda _: self._read(large))
            self._open(future, value.get)
            del value
        with settling:
            if source.wanted:
                return
            future._source = source.large = None
        self._driver.forget(large)  # it serves nobody, so it goes now and not with what a traceback may keep alive

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
            await asyncio.to_thread(self._open, future, functools.partial(load_path, ref.path, writable=True))
            remove_file(ref.path)
            return
        async with self._streams:
            value = await blobs.patiently(self._driver.connection, lambda _: self._read(ref))
        self._open(future, value.get)
        del value
        await self.on_read(ref)

    async def _read(self, ref: Large | BlobRef) -> Value:
        """Stream a value out of the engine. Raises what the engine says; what unpickling raises comes with the value."""
        driver = self._driver
        pipe = ChunkPipe()
        load = functools.partial(pipe.load_mapped, ref.size) if ref.mapped else pipe.load
        opened = driver.loop.run_in_executor(None, Value, load)
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
        if type(effect.task.cargo) is Child and self.children is not None:
            self.children.on_end(effect, body.entries if body is not None else [])
            return
        future: FarmFuture[Any] = effect.task.cargo
        self._driver.on_failed(effect)
        if type(future._entry) is Large:
            self.forget(future._entry)
        mark = effect.mark
        error: BaseException
        if body is not None and mark.kind is Kind.RAISED and 0 <= effect.position < len(body.entries):
            error = raised(_end_of(effect), body.entries[effect.position])
        else:
            error = task_error(_end_of(effect), body.problem if body is not None else "")
        future._release()
        future.set_exception(error)
        if mark.kind is Kind.INITIALIZER and isinstance(error, Exception) and self._driver.broken is None:
            self._driver.on_initializer_failed(error)

    def forget(self, large: Large) -> None:
        """Large arguments are no longer needed."""
        if large.path:
            remove_file(large.path)
        else:
            driver = self._driver
            control = messages.encode(Control(unwanted=(large.id,)))
            driver.connection.publish(subjects.control_of_session(driver.session_id), control)
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

    def load_mapped(self, size: int) -> Any:
        """The same for one with buffers behind the pickle: they are used where they arrive."""
        try:
            memory = fresh_view(size)
            if self.readinto(memory) < size:
                raise EOFError("a value ends too early")
            return load_view(memory)
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


def _decode_error(error: BaseException) -> BaseException:
    if isinstance(error, errors.FarmhandError):
        return error
    wrapped = errors.ResultUndecodable(
        f"the task succeeded, but its result cannot be unpickled here: {type(error).__name__}: {error}"
    )
    wrapped.__cause__ = error
    return wrapped


def _end_of(effect: core.Ended) -> End:
    task = effect.task
    profile = task.group.profile
    return End(profile.name, profile.timeout, effect.mark, effect.node, effect.slot, task.attempts, task.cargo.task_id)
