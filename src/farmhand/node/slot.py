"""A slot: a child process of a node that runs one task at a time. (`slotthread` has the one that is a thread.)

The main thread runs user code and nothing else may block it. A reader thread takes frames from the agent, so that the
agent can take back what has not started and collect what is done while a task runs. The claim on a task is the removal
of its index from `_pending`, which either thread does in one atomic step.

Nothing of the agent's is in this process: no loop, no engine, no credentials.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

import msgspec

from farmhand.code.failure import pack_exception, say_exception
from farmhand.code.limits import PLAIN_INT_MAX
from farmhand.code.load import Loaded, Loader
from farmhand.code.values import estimate_size, pack_result, pack_values, unpack_values, write_result
from farmhand.errors import OtherPython, ResultTooLarge, TaskFailed
from farmhand.model import limits
from farmhand.model.environment import Recipe
from farmhand.model.messages import Profile, Work, read_work, split
from farmhand.model.outcome import Kind, Mark
from farmhand.node import environment, slotwire
from farmhand.node.output import Printer
from farmhand.node.threads import Threads

if TYPE_CHECKING:
    import mmap

_FLUSH_S: Final = 0.010  # results of short tasks are sent together for so long
_MARK_CHARS: Final = 300  # of an exception's own words
_FLUSH_BYTES: Final = 256 * 1024
_read_run: Final = msgspec.msgpack.Decoder(slotwire.Run).decode
_encode: Final = msgspec.msgpack.Encoder().encode
_ATOMS: Final = frozenset({float, bool, type(None)})


class Batch:
    """A work message being run: what is left to start, and what is done but not sent."""

    def __init__(self, work: Work, run: slotwire.Run, body: memoryview) -> None:
        self.work = work
        self.run = run
        self.body = body
        self.entries: list[Any] = []
        self.files = dict(run.files)
        self.pending = deque(range(work.count))
        self.dropped = set(run.dropped)
        self.first = 0  # first index not sent yet
        self.values: list[Any] = []  # packed results and exceptions, in order of index
        self.marks: list[Mark] = []
        self.out_files: list[tuple[int, str, int]] = []
        self.count = 0  # indices ended since `first`
        self.bytes = 0
        self.seconds = 0.0
        self.cpu_at = time.process_time()
        self.flush_at = 0.0


class Sink(Protocol):
    """Where frames go."""

    def write(self, data: bytes, /) -> object:
        """Take a whole frame."""

    def flush(self) -> object:
        """Send it on."""


class Slot:
    """The slot's state. In a process `serve` never returns: it ends when the agent closes the pipe or kills it.

    `progress` has room for `slotwire.PROGRESS`; the agent looks at it.
    """

    def __init__(self, number: int, cache: Path, progress: mmap.mmap | bytearray, sink: Sink) -> None:
        self.number = number
        self._cache = cache
        self._sink = sink
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()  # of the batch's results
        self._inbox: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._batch: Batch | None = None  # what the agent gave last, also while the main thread has not begun with it
        self._loader = Loader(cache)
        self._progress = progress
        self._reader = ("", "")  # an environment, and the minor version of its client when that is another than ours
        self._initialized = ("", "")  # whose initializer ran last, and its error text
        self.printer = Printer(self._send_output)
        self.frames = slotwire.Frames(self._on_frame)  # what the agent says goes in here

    # ---- frames

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Write one frame; safe from any thread."""
        data = slotwire.frame(kind, payload)
        with self._send_lock:
            self._sink.write(data)
            self._sink.flush()

    def _send_output(self, index: int, lines: tuple[tuple[int, str], ...], dropped: int) -> None:
        self.send(slotwire.OUTPUT, _encode(slotwire.SlotOutput(index, lines, dropped)))

    def read_forever(self, source: BinaryIO) -> None:
        """The reader thread. The end of the pipe is the end of the agent, and so of this process and its children."""
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(source.fileno(), 1 << 18):
                self.frames.feed(data)
        end_process_group()

    def _on_frame(self, kind: int, payload: bytes) -> None:
        if kind == slotwire.RUN:
            (size,) = slotwire.HEAD.unpack_from(payload)[:1]
            view = memoryview(payload)
            run = _read_run(view[slotwire.HEAD.size : slotwire.HEAD.size + size])
            header, body = split(view[slotwire.HEAD.size + size :])
            self._batch = Batch(read_work(header), run, body)
            self._inbox.put(self._batch)
        elif kind == slotwire.RETRACT:
            self._retract()
        elif kind == slotwire.DROP and self._batch is not None:
            self._batch.dropped.add(int(payload))

    def _retract(self) -> None:
        """Give back what is not started and send what is done; the running task stays."""
        batch = self._batch
        if batch is None:
            return
        first = batch.work.count
        with contextlib.suppress(IndexError):
            while True:
                first = batch.pending.pop()
        self._flush(batch)
        self.send(slotwire.RETRACTED, f"{batch.work.token} {first}".encode())

    # ---- running

    def serve(self) -> None:
        """Run batches until the process ends, or a None comes out of the inbox."""
        self.send(slotwire.READY, slotwire.OWN_VERSION)
        while (batch := self._inbox.get()) is not None:
            self._run_batch(batch)
            self.mend()

    def grant(self, cpus: int) -> None:
        """Before each batch: its tasks have so many."""

    def mend(self) -> None:
        """After each batch: put right what tasks may have broken."""

    def _run_batch(self, batch: Batch) -> None:
        self.printer.install()
        self.grant(batch.run.cpus)
        try:
            batch.entries = unpack_values(batch.body)
            code = self._prepare(batch.work.session, batch.work.profile)
        except BaseException as error:  # noqa: BLE001 - whatever a task does is its outcome
            self._refuse(batch, error)
            return
        try:
            while True:
                try:
                    index = batch.pending.popleft()
                except IndexError:
                    break
                if index in batch.dropped:
                    with self._lock:
                        batch.marks.append(Mark(index, Kind.KILLED))
                        batch.count += 1
                    continue
                self._run_one(batch, code, index)
        finally:
            slotwire.PROGRESS.pack_into(self._progress, 0, -1, 0)
        self.printer.flush()
        self._flush(batch)

    def _run_one(self, batch: Batch, code: Loaded, index: int) -> None:
        """One call, from its entry to its packed result. Whatever it raises is its result."""
        self.printer.index = index
        began = time.monotonic_ns()
        slotwire.PROGRESS.pack_into(self._progress, 0, index, began)
        mark: Mark | None = None
        size = 32
        try:
            entry = batch.entries[index]
            batch.entries[index] = None  # so that a large argument is free while the next task runs
            if index in batch.files:
                with Path(batch.files[index]).open("rb") as file:
                    value = self._loader.call_from(self._loader.begin(code, batch.work.profile.state), file)
            else:
                value = self._loader.call(self._loader.begin(code, batch.work.profile.state), entry)
            del entry
            kind = value.__class__
            if kind in _ATOMS or (kind is int and -PLAIN_INT_MAX < value < PLAIN_INT_MAX):
                packed: Any = (value,)
            else:
                if self._reader[1]:
                    _check_readable(value, self._reader[1])
                packed, size = self._pack(batch, index, value)
            del value
        except BaseException as error:  # noqa: BLE001 - whatever a task does is its outcome
            mark = Mark(index, Kind.RAISED, _in_a_line(error))
            packed = _pack_error(error, self._reader[1])
            size = len(packed)
            del error
        ended = time.monotonic_ns()
        with self._lock:
            if mark is not None:
                batch.marks.append(mark)
            batch.values.append(packed)
            batch.count += 1
            batch.bytes += size
            batch.seconds += (ended - began) / 1e9
        if self.printer.unsent:
            self.printer.flush()
        now = ended / 1e9
        if batch.count == 1:
            batch.flush_at = now + _FLUSH_S
        if batch.pending and (now >= batch.flush_at or batch.bytes >= _FLUSH_BYTES):
            self._flush(batch)

    def _pack(self, batch: Batch, index: int, value: Any) -> tuple[Any, int]:
        """The result's entry, or a file beside the message for a large one."""
        if estimate_size((value,), {}) >= limits.INLINE_BYTES_MAX:
            return self._pack_file(batch, index, value)
        packed = pack_result(value)
        if not isinstance(packed, bytes):
            return packed, 64
        size = len(packed)
        _check_size(batch, size)
        if size >= limits.INLINE_BYTES_MAX:
            path = self._spool_path(batch, index)
            path.write_bytes(packed)
            batch.out_files.append((index, str(path), size))
            return None, 64
        return packed, size

    def _pack_file(self, batch: Batch, index: int, value: Any) -> tuple[Any, int]:
        path = self._spool_path(batch, index)
        try:
            with path.open("wb") as file:
                write_result(value, file.write)
                size = file.tell()
            _check_size(batch, size)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        batch.out_files.append((index, str(path), size))
        return None, 64

    def _spool_path(self, batch: Batch, index: int) -> Path:
        return slotwire.result_path(batch.run.results, index)

    def _flush(self, batch: Batch) -> None:
        """Send what has ended since the last time."""
        with self._lock:
            if not batch.count:
                return
            cpu = time.process_time()
            header = slotwire.SlotResult(batch.first, batch.count, tuple(batch.marks), batch.seconds, cpu - batch.cpu_at,
                                         tuple(batch.out_files))  # fmt: skip
            values, batch.values = batch.values, []
            batch.first += batch.count
            batch.count, batch.bytes, batch.seconds, batch.cpu_at = 0, 0, 0.0, cpu
            batch.marks, batch.out_files = [], []
            head = _encode(header)
            body = pack_values(values)
            self.send(slotwire.RESULT, b"".join((slotwire.HEAD.pack(len(head), 0), head, body)))

    def _refuse(self, batch: Batch, error: BaseException) -> None:
        """The batch cannot be started at all: its code or its data cannot be loaded, or the initializer failed."""
        count = 0
        with contextlib.suppress(IndexError):
            while True:
                batch.pending.popleft()
                count += 1
        if not count:  # all of it was given back meanwhile
            return
        kind = Kind.INITIALIZER if isinstance(error, InitializerError) else Kind.REFUSED
        text = str(error) if kind is Kind.INITIALIZER else f"{type(error).__name__}: {error}"
        marks = tuple(Mark(index, kind, text) for index in range(count))
        head = _encode(slotwire.SlotResult(0, count, marks, 0.0, 0.0))
        self.send(slotwire.RESULT, b"".join((slotwire.HEAD.pack(len(head), 0), head, pack_values([]))))

    def _prepare(self, session: str, profile: Profile) -> Loaded:
        """The callable of a profile, with the session's modules in place and its initializer run."""
        loader = self._loader
        for bundle in profile.bundles:
            if not loader.has_bundle(bundle):
                loader.add_bundle(bundle, self._blob(bundle))
        if profile.initializer:
            self._initialize(session, profile)
        elif self._initialized[0]:
            loader.forget_initializer()
            self._initialized = ("", "")
        if profile.environment != self._reader[0]:
            self._reader = (profile.environment, self._foreign_client(profile.environment))
        known = loader.has_code(profile.code, profile.bundles)
        return loader.load_code(profile.code, b"" if known else self._blob(profile.code), profile.bundles)

    def _blob(self, code: str) -> bytes:
        return (self._cache / "blobs" / code).read_bytes()

    def _foreign_client(self, environment: str) -> str:
        """The client's minor version when it is not ours: only an environment can bring that about."""
        client = msgspec.json.decode(self._blob(environment), type=Recipe).client if environment else ""
        return client if client != _own_minor() else ""

    def _initialize(self, session: str, profile: Profile) -> None:
        """Once for each session that comes to this slot; a failure is remembered and stays."""
        key = f"{session}.{profile.initializer}.{profile.initargs}"
        if self._initialized[0] != key:
            problem = ""
            try:
                code, entry = self._blob(profile.initializer), self._blob(profile.initargs)
                self._loader.run_initializer(profile.initializer, code, profile.bundles, entry)
            except BaseException as error:  # noqa: BLE001 - whatever a task does is its outcome
                problem = f"{type(error).__name__}: {error}"
            self._initialized = (key, problem)
        if problem := self._initialized[1]:
            raise InitializerError(f"the initializer failed on slot {self.number}: {problem}")


class InitializerError(Exception):
    """The session's initializer raised in this slot."""


def _check_size(batch: Batch, size: int) -> None:
    """Raise `ResultTooLarge` for a value of more bytes than its session keeps."""
    largest = batch.work.profile.result_max
    if largest and size > largest:
        raise ResultTooLarge(
            f"the value of {batch.work.profile.name} has {size:,} bytes, and its session keeps at most {largest:,} of each; "
            "return less, or a path, or open the session with a larger result_max"
        )


def _in_a_line(error: BaseException) -> str:
    """An exception in words, for a list of what went wrong."""
    return say_exception(error).strip().partition("\n")[0][:_MARK_CHARS]


def _own_minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _check_readable(value: Any, reader: str) -> None:
    """Raise `OtherPython` when a part of the value would go as our bytecode to a client with another Python."""
    from farmhand.code.portable import check_portable

    check_portable(value, _own_minor(), reader)


def _pack_error(error: BaseException, reader: str) -> bytes:
    """An exception; in words one that is too large for a message, or that the Python of the client cannot have."""
    if reader:
        try:
            _check_readable(error, reader)
        except OtherPython:
            plain = TaskFailed(f"{type(error).__name__}: {error}")
            return pack_exception(plain.with_traceback(error.__traceback__))
        except Exception:  # noqa: BLE001, S110 - what cannot be pickled goes in words anyway
            pass
    packed = pack_exception(error)
    if len(packed) <= limits.EXCEPTION_BYTES_MAX:
        return packed
    words = f"{str(error)[:1000]} ... (shown in words, because with {len(packed)} bytes it is too large to be sent)"
    return pack_exception(TaskFailed(f"{type(error).__name__}: {words}").with_traceback(error.__traceback__))


def _open_sink(descriptor: int) -> BinaryIO:
    """Where frames go. On a descriptor of its own, no child process inherits it; else standard output is moved away."""
    if descriptor > 2:
        os.set_inheritable(descriptor, False)
        return os.fdopen(descriptor, "wb")
    moved = os.fdopen(os.dup(descriptor), "wb")
    os.dup2(2, descriptor)
    return moved


class _ProcessSlot(Slot):
    """A slot that has a process to itself."""

    _descriptors: Descriptors
    _threads: Threads

    def serve(self) -> None:
        self._descriptors = Descriptors()
        self._threads = Threads()
        super().serve()

    def grant(self, cpus: int) -> None:
        self._threads.set(cpus)

    def mend(self) -> None:
        self._descriptors.mend()


class Descriptors:
    """Standard input, output and error of this process: put back when a task has closed them."""

    def __init__(self) -> None:
        self._spare = tuple(os.dup(standard) for standard in (0, 1, 2))

    def mend(self) -> None:
        """One that is open is left alone: whoever opened it may still use it."""
        for standard, spare in enumerate(self._spare):
            try:
                os.fstat(standard)
            except OSError:
                with contextlib.suppress(OSError):
                    os.dup2(spare, standard)


def _map_progress(path: Path) -> mmap.mmap:
    import mmap

    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), slotwire.PROGRESS.size)


def end_process_group() -> None:
    """Leave at once and take every child along."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            os.killpg(os.getpgrp(), signal.SIGKILL)  # the agent made this process the leader of its own group
    os._exit(0)


def die_with_parent() -> None:
    """Linux: the kernel kills this process when the agent dies, even while user code holds the interpreter."""
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main() -> None:
    """Entry point of the child process; `farmhand.node.slotproc` starts it."""
    parser = argparse.ArgumentParser(prog="farmhand-slot")
    for name in ("number", "cache", "progress", "parent", "sink"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    die_with_parent()
    if os.getppid() != int(options.parent) and os.name == "posix":
        os._exit(1)  # the agent died before the line above
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    sink = _open_sink(int(options.sink))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    with contextlib.suppress(OSError, ValueError):
        faulthandler.enable(file=2, all_threads=False)
    environment.forget_large_pages()
    slot = _ProcessSlot(int(options.number), Path(options.cache), _map_progress(Path(options.progress)), sink)
    slot.printer.install()
    threading.Thread(target=slot.read_forever, args=(source,), name="farmhand-reader", daemon=True).start()
    slot.serve()


if __name__ == "__main__":
    main()
