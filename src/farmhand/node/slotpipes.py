"""Starting a slot's process and hearing from it: its frames, what it prints without Python's help, and its death.

On POSIX the pipes are read by hand, so that everything that was printed before a frame is taken before that frame, and
everything that was written before a death before that death. Elsewhere asyncio's own subprocesses do, which keep no such
order and put both kinds of print on one pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from farmhand.node import processes

_READ_BYTES: Final = 1 << 18
_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


class Listener(Protocol):
    """Who hears of the process. Called on the loop."""

    def on_data(self, data: bytes) -> None:
        """Bytes of frames."""

    def on_printed(self, stream: int, data: bytes) -> None:
        """Bytes on standard output (1) or standard error (2)."""

    def on_silent(self) -> None:
        """Its frames have ended: it dies, or it has closed a descriptor that was not its own and is of no use any more."""

    def on_dying(self) -> None:
        """The process is dead and its id is still its own: the moment to kill what it leaves."""

    def on_dead(self, code: int | None, signal: int | None, peak_memory: int) -> None:
        """It is gone, and nothing follows. `peak_memory` is in bytes, 0 when it is not known."""


class Pipes(Protocol):
    """A started process."""

    pid: int

    def write(self, data: bytes) -> None:
        """To its standard input; never blocks."""

    def close(self) -> None:
        """Let go of it: nothing more is heard."""


async def launch(command: list[str], environment: dict[str, str], listener: Listener) -> Pipes:
    """Start a slot. `--sink N` is added to the command: the descriptor that it writes frames to. Raises `OSError`."""
    if os.name == "posix":
        posix = _PosixPipes(listener)
        await posix.start(command, environment)
        return posix
    portable = _AsyncioPipes(listener)
    await asyncio.get_running_loop().subprocess_exec(lambda: portable, *command, "--sink", "1", env=environment)
    return portable


class _PosixPipes:
    def __init__(self, listener: Listener) -> None:
        self.pid = 0
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes]
        self._input: asyncio.WriteTransport
        self._open: dict[int, Callable[[bytes], None]] = {}  # descriptors that are read, what is printed before frames

    async def start(self, command: list[str], environment: dict[str, str]) -> None:
        source, sink = os.pipe()
        try:
            self._process = process = subprocess.Popen(  # noqa: ASYNC220 - a spawn without fork takes a millisecond
                [*command, "--sink", str(sink)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=environment, start_new_session=True, pass_fds=(sink,), bufsize=0,
            )  # fmt: skip
        except BaseException:
            os.close(source)
            raise
        finally:
            os.close(sink)
        assert process.stdout is not None
        assert process.stderr is not None
        self.pid = process.pid
        processes.own.add(process.pid)
        listener = self._listener
        self._open = {
            process.stdout.fileno(): lambda data: listener.on_printed(1, data),
            process.stderr.fileno(): lambda data: listener.on_printed(2, data),
            source: listener.on_data,
        }
        self._source = source
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
            self._loop.add_reader(descriptor, self._on_readable, descriptor)
        self._input, _ = await self._loop.connect_write_pipe(asyncio.BaseProtocol, process.stdin)
        threading.Thread(target=self._wait, name=f"slot-{self.pid}", daemon=True).start()

    def _on_readable(self, descriptor: int) -> None:
        if descriptor == self._source:
            for other in list(self._open):
                if other != descriptor:
                    self._read(other)
        self._read(descriptor)

    def _read(self, descriptor: int) -> bool:
        """Take what is there now. False when there was nothing."""
        take = self._open.get(descriptor)
        if take is None:
            return False
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            take(data)
            return True
        self._forget(descriptor)
        if descriptor == self._source:
            self._listener.on_silent()
        return False

    def _forget(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        self._loop.remove_reader(descriptor)
        process = self._process
        if descriptor == self._source:
            os.close(descriptor)
        for stream in (process.stdout, process.stderr):
            if stream is not None and not stream.closed and stream.fileno() == descriptor:
                stream.close()

    def _wait(self) -> None:
        """On a thread of its own. The dead process stays in the table until the loop has killed its group."""
        status: tuple[int, int] | None = None
        try:
            if hasattr(os, "waitid"):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            else:
                status = self._reap()
        except ChildProcessError:
            status = (0, 0)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the agent with it
            self._loop.call_soon_threadsafe(self._on_death, status)

    def _reap(self) -> tuple[int, int]:
        """The exit status and the peak memory in bytes."""
        _, status, usage = os.wait4(self.pid, 0)
        processes.own.discard(self.pid)
        return status, usage.ru_maxrss * _RSS_UNIT

    def _on_death(self, known: tuple[int, int] | None) -> None:
        self._listener.on_dying()
        status, peak = known or self._reap()
        self._process.returncode = code = os.waitstatus_to_exitcode(status)
        for descriptor in list(self._open):
            while self._read(descriptor):
                pass
        self._close_pipes()
        self._listener.on_dead(code if code >= 0 else None, -code if code < 0 else None, peak)

    def write(self, data: bytes) -> None:
        if not self._input.is_closing():
            self._input.write(data)

    def close(self) -> None:
        self._close_pipes()

    def _close_pipes(self) -> None:
        for descriptor in list(self._open):
            self._forget(descriptor)
        self._input.close()


class _AsyncioPipes(asyncio.SubprocessProtocol):
    def __init__(self, listener: Listener) -> None:
        self.pid = 0
        self._listener = listener
        self._transport: asyncio.SubprocessTransport
        self._input: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.pid = self._transport.get_pid()
        self._input = self._transport.get_pipe_transport(0)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self._listener.on_data(data)
        else:
            self._listener.on_printed(fd, data)

    def process_exited(self) -> None:
        self._listener.on_dying()
        self._listener.on_dead(self._transport.get_returncode(), None, 0)

    def write(self, data: bytes) -> None:
        if not self._input.is_closing():
            self._input.write(data)

    def close(self) -> None:
        self._transport.close()
