"""A slot seen from its agent: start the process, talk to it, notice its death, kill its whole tree."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from farmhand.model import limits
from farmhand.node import slotwire

_encode = msgspec.msgpack.Encoder().encode


class Exit(msgspec.Struct, frozen=True):
    """How a slot's process ended."""

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                return f"killed by {signal.Signals(self.signal).name}"
            except ValueError:
                return f"killed by signal {self.signal}"
        return f"exit code {self.code}"


class SlotProcess(asyncio.SubprocessProtocol):
    """Callbacks run on the agent's loop: `on_frame(slot, kind, payload)` and `on_exit(slot, exit)`."""

    def __init__(self, number: int, folder: Path, cache: Path, on_frame: Callable[[SlotProcess, int, bytes], None],
                 on_exit: Callable[[SlotProcess, Exit], None]) -> None:  # fmt: skip
        self.number = number
        self.ready = False
        self.pid = 0
        self.tail: deque[str] = deque(maxlen=limits.TAIL_LINES)
        self.peak_memory = 0
        self.killed = False
        self._folder = folder
        self._cache = cache
        self._on_frame = on_frame
        self._on_exit = on_exit
        self._frames = slotwire.Frames(lambda kind, payload: self._on_frame(self, kind, payload))
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: Any = None
        self._progress: mmap.mmap | None = None
        self._error_rest = b""

    async def start(self) -> None:
        """Spawn the process. Raises `OSError` when that fails."""
        path = self._folder / f"progress-{self.number}"
        path.write_bytes(slotwire.PROGRESS.pack(-1, 0))
        with path.open("r+b") as file:
            self._progress = mmap.mmap(file.fileno(), slotwire.PROGRESS.size)
        command = [
            sys.executable, "-m", "farmhand.node.slot", "--number", str(self.number), "--cache", str(self._cache),
            "--progress", str(path), "--parent", str(os.getpid()),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "FARMHAND_SLOT": str(self.number)}
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(lambda: self, *command, env=environment, start_new_session=True)
        self._transport = transport
        self._stdin = transport.get_pipe_transport(0)
        self.pid = transport.get_pid()

    # ---- events of the process

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            try:
                self._frames.feed(data)
            except ValueError:
                self.kill()
        else:
            self._take_error_output(data)

    def _take_error_output(self, data: bytes) -> None:
        """What C code, child processes and the dying interpreter print. Kept for the error message."""
        *lines, rest = (self._error_rest + data).split(b"\n")
        self._error_rest = rest[-limits.OUTPUT_LINE_BYTES :]
        for line in lines[-limits.TAIL_LINES :]:
            self.tail.append(line.decode(errors="replace")[: limits.OUTPUT_LINE_BYTES])
        if lines:
            text = tuple((2, line.decode(errors="replace")[: limits.OUTPUT_LINE_BYTES]) for line in lines)
            self._on_frame(self, slotwire.OUTPUT, _encode(slotwire.SlotOutput(self.running()[0], text, -1)))

    def process_exited(self) -> None:
        assert self._transport is not None
        status = self._transport.get_returncode()
        self.kill_tree()
        if status is not None and status < 0:
            self._on_exit(self, Exit(None, -status))
        else:
            self._on_exit(self, Exit(status, None))

    # ---- talking to it

    def write(self, kind: int, payload: bytes | memoryview = b"") -> None:
        """Send one frame; a dead slot's frame is dropped, its exit tells the rest."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(slotwire.frame(kind, payload))

    def run(self, run: slotwire.Run, frame: bytes | memoryview) -> None:
        """Give it a work message."""
        head = _encode(run)
        self.write(slotwire.RUN, b"".join((slotwire.HEAD.pack(len(head), 0), head, frame)))

    def running(self) -> tuple[int, float]:
        """The index that runs now (-1 for none) and since when, in seconds of the monotonic clock."""
        if self._progress is None:
            return -1, 0.0
        index, began = slotwire.PROGRESS.unpack_from(self._progress)
        return index, began / 1e9

    # ---- ending it

    def kill(self) -> None:
        """Kill the process and everything it started. `on_exit` follows."""
        self.killed = True
        self.kill_tree()

    def kill_tree(self) -> None:
        """SIGKILL to the group, and to descendants that left the group."""
        if not self.pid:
            return
        strays = descendants(self.pid)
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        elif self._transport is not None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()
        for stray in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(stray, getattr(signal, "SIGKILL", signal.SIGTERM))

    def close(self) -> None:
        """End the process without a word to the agent's callbacks."""
        self._on_exit = lambda _slot, _exit: None
        self._on_frame = lambda _slot, _kind, _payload: None
        self.kill()
        if self._transport is not None:
            self._transport.close()


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, found by a walk over the process table."""
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def become_subreaper() -> None:
    """Linux: adopt what tasks leave behind, so that a daemon that a task forked twice is still ours to kill."""
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_child_subreaper = 36
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)
