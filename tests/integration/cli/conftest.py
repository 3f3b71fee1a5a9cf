"""The command as people run it: real processes in a folder whose name has a blank, and none of them left at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

DEADLINE_S = 60.0


def wait_until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Look until the condition holds."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {deadline_s:g} s"
        time.sleep(0.02)
    return found


class Machine:
    """A user's account on some machine: a $FARMHAND_HOME of its own, and the commands run with it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "FARMHAND_HOME": str(home), "COLUMNS": "200"}
        self.environment.pop("FARMHAND_FARM", None)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "farmhand.cli", *arguments]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def json(self, *arguments: str, code: int = 0, **environment: str) -> Any:
        done = self.run(*arguments, "--json", **environment)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def start(self, *arguments: str, **environment: str) -> Running:
        return Running(self.command(*arguments), self.environment | environment)

    def up(self, *arguments: str, **environment: str) -> Any:
        return self.json("up", "--detach", "--slots", "1", *arguments, **environment)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs with this home."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return (
                process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("FARMHAND_HOME") == str(self.home)
            )
        except psutil.Error:
            return False

    def farm_file(self) -> Any:
        return json.loads((self.home / "farm" / "farm.json").read_text())

    def end(self) -> None:
        """Whatever a test left frozen goes on, then all ends, and nothing is left."""
        for process in self.processes():
            process.resume()
        self.run("down", "--now")
        try:
            wait_until(lambda: not self.processes(), "every process has ended", 20.0)
        finally:
            for process in self.processes():
                process.kill()


class Running:
    """A command in the foreground."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_line(self, word: str) -> str:
        """Read until a line with this word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if word in line:
                return line
        raise AssertionError(f"it ended without saying {word!r}: {self.said}")

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        rest, _ = self.process.communicate(timeout=DEADLINE_S)
        self.said += rest
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "a home")
    yield machine
    machine.end()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Machine]:
    """Another user, or another machine, as far as files go."""
    other = Machine(tmp_path / "another home")
    yield other
    other.end()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A running farm for tests that do it no lasting harm."""
    machine = Machine(tmp_path_factory.mktemp("shared") / "a home")
    machine.up()
    yield machine
    machine.end()


@pytest.fixture(scope="session", name="wait_until")
def _wait_until() -> Callable[..., Any]:
    return wait_until
