"""A farm of real processes to be broken: start it, find its processes by role, kill and freeze them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import psutil

from farmhand.home.paths import FarmFile
from farmhand.node.host import HostConfig

PATIENCE_S = 60.0  # only so that a broken product cannot hang the tests
NOISE_S = 2.0  # what a busy shared machine may add to a promised time
ROLES = ("slot", "node", "steward", "engine")


def role_of(command: list[str]) -> str:
    """What a process of a farm is, by its command line."""
    if "farmhand.node.slot" in command:
        return "slot"
    if "farmhand.node" in command:
        return "node"
    if "farmhand.steward" in command:
        return "steward"
    return "engine" if command and command[-1].endswith("server.conf") and "launch.py" not in " ".join(command) else ""


def below(pid: int, role: str, name: str = "") -> list[psutil.Process]:
    """The processes of a role below `pid`; of nodes, those of that name."""
    found = []
    try:
        family = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    for process in family:
        try:
            command = process.cmdline()
            if role_of(command) == role and process.status() != psutil.STATUS_ZOMBIE and (not name or name in command):
                found.append(process)
        except psutil.Error:
            pass  # it has just ended
    return found


def node_of(slot_pid: int) -> psutil.Process:
    """The agent that a slot belongs to."""
    node = psutil.Process(slot_pid).parent()
    assert node is not None
    assert role_of(node.cmdline()) == "node"
    return node


def kill_some(pid: int, role: str, dice: random.Random) -> psutil.Process | None:
    """kill -9 one process of a role, and return when it is dead. None when none lives at this moment."""
    victims = below(pid, role)
    if not victims:
        return None
    victim = dice.choice(victims)
    try:
        victim.kill()
    except psutil.NoSuchProcess:
        return victim
    wait_dead(victim)
    return victim


def wait_dead(process: psutil.Process) -> None:
    """Return when it is dead, be it that whoever has adopted it has not heard of that."""
    wait_until(lambda: not process.is_running() or _is_zombie(process), f"{process} is dead")


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(true: Callable[[], Any], what: str) -> float:
    """Ask until the answer is yes: for states that no event tells. The seconds it took."""
    began = time.monotonic()
    pause = threading.Event()
    while not true():
        assert time.monotonic() - began < PATIENCE_S, what
        pause.wait(0.02)
    return time.monotonic() - began


def hold(seconds: float) -> None:
    """Let a fault last for so long."""
    threading.Event().wait(seconds)


@contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with_life = process.is_running()
            if with_life:
                process.send_signal(signal.SIGCONT)


class FarmProcess:
    """A farm as `farmhand up` runs it, in the folder that clients with this `home` take for their own.

    `prefix` starts its command elsewhere, as that of a `Cable` does.
    """

    def __init__(self, home: Path, nodes: tuple[int, ...] = (1, 1), prefix: Sequence[str] = (), **config: Any) -> None:
        self.home = home
        wanted = HostConfig(folder=home / "farm", nodes=nodes, durable=False, grace=0.5, **config)
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-m", "farmhand.node.host"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "FARMHAND_HOME": str(home)}, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(wanted, enc_hook=str) + b"\n")
        self._process.stdin.flush()
        said = msgspec.json.decode(self._process.stdout.readline())
        assert "farm" in said, said
        self.file = msgspec.convert(said["farm"], FarmFile)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def host(self) -> psutil.Process:
        return psutil.Process(self.pid)

    def processes(self, role: str, name: str = "") -> list[psutil.Process]:
        return below(self.pid, role, name)

    def one(self, role: str) -> psutil.Process:
        """The only process of a role, which may be starting."""
        wait_until(lambda: len(self.processes(role)) == 1, f"one {role}")
        return self.processes(role)[0]

    def log(self, name: str) -> str:
        return (self.home / "farm" / "logs" / name).read_text(errors="replace")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """A user's program in a process of its own: runs `text`, and says lines that the test waits for."""

    HEAD = "from farmhand import Farm\nfrom tests.chaos.work import *\nimport sys, time\ndef say(*w): print(*w, flush=True)\n"

    def __init__(self, text: str, *arguments: str, home: Path | None = None, stdin: bool = False) -> None:
        root = Path(__file__).resolve().parents[2]
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        if home is not None:
            environment["FARMHAND_HOME"] = str(home)
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.HEAD + text, *arguments], env=environment, stdout=subprocess.PIPE, text=True,
            stdin=subprocess.PIPE if stdin else None,
        )  # fmt: skip
        self.psutil = psutil.Process(self.process.pid)

    def line(self) -> str:
        """The next line it says; empty at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> None:
        """Tell it something; it was made with `stdin`."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
