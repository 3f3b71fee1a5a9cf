"""A slot seen from its agent: start the process, talk to it, notice its death, kill its whole tree."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from farmhand.model import limits
from farmhand.model.messages import Work
from farmhand.node import processes, slotwire, support
from farmhand.node.output import Budget
from farmhand.node.slotpipes import Pipes, launch
from farmhand.node.venvs import Place

if TYPE_CHECKING:
    import mmap

_encode = msgspec.msgpack.Encoder().encode


class Exit(msgspec.Struct, frozen=True):
    """How a slot's process ended. `why`: in words, of a slot that is none."""

    code: int | None
    signal: int | None
    why: str = ""

    def __str__(self) -> str:
        if self.why:
            return self.why
        if self.signal is None:
            return f"exit code {self.code}"
        return f"killed by {processes.signal_name(self.signal)}"


class SlotProcess:
    """Callbacks run on the agent's loop: `on_frame(slot, kind, payload)` and `on_exit(slot, exit)`."""

    def __init__(self, number: int, folder: Path, cache: Path, on_frame: Callable[[SlotProcess, int, bytes], None],
                 on_exit: Callable[[SlotProcess, Exit], None], place: Place | None = None) -> None:  # fmt: skip
        self.number = number
        self.place = place  # the environment that it runs in; None: the agent's own
        self.worn = ""  # hash of the recipe that it was last found to be right for
        self.ready = False
        self.pid = 0
        self.tail: deque[str] = deque(maxlen=limits.TAIL_LINES)
        self._tail_of = -1
        self.peak_memory = 0
        self.killed = False
        self.ordered = False  # to die: somebody waits for `on_exit`
        self.work: Work | None = None  # what it was last given, for the lines that it prints
        self._folder = folder
        self._cache = cache
        self._on_frame = on_frame
        self._on_exit = on_exit
        self._frames = slotwire.Frames(lambda kind, payload: self._on_frame(self, kind, payload))
        self._pipes: Pipes | None = None
        self._progress: mmap.mmap | bytearray | None = None
        self._rest = {1: b"", 2: b""}  # printed, and not yet a whole line
        self._budget = Budget()

    async def start(self) -> None:
        """Spawn the process. Raises `OSError` when that fails."""
        import mmap

        path = self._folder / f"progress-{self.number}"
        path.write_bytes(slotwire.PROGRESS.pack(-1, 0))
        with path.open("r+b") as file:
            self._progress = mmap.mmap(file.fileno(), slotwire.PROGRESS.size)
        command = [
            *support.command(self.place, self._cache), "--number", str(self.number), "--cache", str(self._cache),
            "--progress", str(path), "--parent", str(os.getpid()),
        ]  # fmt: skip
        variables = support.surroundings(self.place) | {
            "PYTHONUNBUFFERED": "1",
            processes.SLOT_VARIABLE: str(self.number),
        }
        self._pipes = await launch(command, variables, self)
        self.pid = self._pipes.pid
        if self.killed:  # meanwhile
            self.kill_tree()

    # ---- events of the process

    def on_data(self, data: bytes) -> None:
        """See `slotpipes.Listener`."""
        try:
            self._frames.feed(data)
        except ValueError:
            self.kill()

    def on_printed(self, stream: int, data: bytes) -> None:
        """What C code, child processes and the dying interpreter print. Its end is kept for the error message."""
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        self._rest[stream] = rest
        if len(rest) > limits.OUTPUT_LINE_BYTES:
            lines, self._rest[stream] = [*lines, rest], b""
        self._send_lines(stream, lines)

    def remember(self, index: int, lines: list[str]) -> None:
        """Keep the end of what the task at `index` printed."""
        if index != self._tail_of:
            self._tail_of = index
            self.tail.clear()
        self.tail.extend(lines[-limits.TAIL_LINES :])

    def last_lines(self) -> tuple[str, ...]:
        """The end of what its last task printed, TAIL_BYTES at most."""
        kept: list[str] = []
        room = limits.TAIL_BYTES
        for line in reversed(self.tail):
            room -= len(line.encode()) + 1
            if room < 0:
                break
            kept.append(line)
        return tuple(reversed(kept))

    def _send_lines(self, stream: int, lines: list[bytes]) -> None:
        texts = [line.decode(errors="replace")[: limits.OUTPUT_LINE_BYTES] for line in lines]
        self.remember(self.running()[0], texts)
        allowed, dropped = self._budget.take(texts)
        if allowed:
            self._send_printed(stream, allowed, dropped)

    def _send_printed(self, stream: int, texts: list[str], dropped: int) -> None:
        printed = slotwire.SlotOutput(self.running()[0], tuple((stream, text) for text in texts), dropped, raw=True)
        self._on_frame(self, slotwire.OUTPUT, _encode(printed))

    def flush_printed(self, *, partial: bool) -> None:
        """Tell how many lines were left out; with `partial` send unfinished ones too, for the task has ended."""
        if partial:
            for stream, rest in self._rest.items():
                if rest:
                    self._rest[stream] = b""
                    self._send_lines(stream, [rest])
        if self._budget.dropped:
            self._send_printed(1, [], self._budget.take_dropped())

    def on_silent(self) -> None:
        """See `slotpipes.Listener`."""
        self.killed = True
        self.kill_tree()

    def on_dying(self) -> None:
        """See `slotpipes.Listener`."""
        self.kill_tree()

    def on_dead(self, code: int | None, signal: int | None, peak_memory: int) -> None:
        """See `slotpipes.Listener`."""
        self.flush_printed(partial=True)
        self.peak_memory = max(self.peak_memory, peak_memory)
        self._on_exit(self, Exit(code, signal))

    # ---- talking to it

    def write(self, kind: int, payload: bytes | memoryview = b"") -> None:
        """Send one frame; a dead slot's frame is dropped, its exit tells the rest."""
        if self._pipes is not None:
            self._pipes.write(slotwire.frame(kind, payload))

    def run(self, run: slotwire.Run, work: Work, frame: bytes | memoryview) -> None:
        """Give it a work message."""
        self.work = work
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
        self.killed = self.ordered = True
        self.kill_tree()

    def kill_tree(self) -> None:
        """SIGKILL to the group, to descendants that left the group, and to those that have left the family."""
        if self.pid:
            strays = processes.descendants(self.pid) + processes.adopted(processes.SLOT_VARIABLE, str(self.number))
            processes.kill_group(self.pid)
            for stray in strays:
                processes.kill(stray)

    async def end(self) -> Exit:
        """Kill it as planned, without `on_exit`, and wait for its death: what kills its strays must not meet its successor's."""
        gone: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._on_exit = lambda _slot, exit_: gone.set_result(exit_)
        self.kill_tree()
        return await gone

    def close(self) -> None:
        """End the process without a word to the agent's callbacks."""
        self._on_exit = lambda _slot, _exit: None
        self._on_frame = lambda _slot, _kind, _payload: None
        self.kill()
        if self._pipes is not None:
            self._pipes.close()
