"""A farm that tests share, a place to meet its tasks, scripts as users write them, and proof that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.chaos.farm import wait_until
from tests.integration.executor.meeting import PATIENCE_S, Meeting
from tests.integration.executor.tally import Tally

from farmhand import Farm

ROOT = Path(__file__).resolve().parents[3]
MARK = "FARMHAND_TEST_MARK"


def processes_with(mark: str) -> list[psutil.Process]:
    """Every process that was started, directly or through others, under this mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass  # it is gone, or it is not ours
    return found


def wait_all_gone(mark: str) -> None:
    """Return when no process under this mark lives; fails with the names of those that stay."""
    while found := processes_with(mark):
        _, alive = psutil.wait_procs(found, timeout=15.0)
        assert not alive, [(p.pid, p.cmdline()) for p in alive]


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After a module's tests no process of a farm and no file of one remains."""
    mark, home = uuid.uuid4().hex, tmp_path_factory.mktemp("farm home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.setenv("FARMHAND_HOME", str(home))  # with a blank in it
        patch.delenv("FARMHAND_FARM", raising=False)
        yield
        wait_all_gone(mark)
        wait_until(
            lambda: not list((home / "run").glob("*")), "no file is left"
        )  # the last process goes before its folder


@pytest.fixture(scope="module")
def farm(nothing_left_behind: None) -> Iterator[Farm]:
    """A farm of two slots, shared by a module's tests. What they print is of no interest here."""
    with Farm(max_workers=2, output=False) as farm:
        yield farm


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    with Meeting() as meeting:
        yield meeting


@pytest.fixture
def tally(tmp_path: Path) -> Tally:
    return Tally(tmp_path)


def priorities_sent(farm: Farm) -> set[int]:
    """Those of the lanes in which something waits or runs."""
    return {lane["priority"] for lane in farm.status()["lanes"] if lane["waiting"] + lane["taken"]}


class Script:
    """A user's program in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.environment = {**os.environ, MARK: self.mark, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
        self._started: list[subprocess.Popen[str]] = []

    def file(self, name: str, text: str) -> Path:
        """Write a file into the program's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def start(self, text: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the program; its output is captured."""
        path = self.file("program.py", text)
        process = subprocess.Popen(
            [sys.executable, str(path), *arguments], cwd=self.folder, env=self.environment | environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip
        self._started.append(process)
        return process

    def run(self, text: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the program to its end, which must be a good one, and see that it leaves no process behind."""
        process = self.start(text, *arguments, **environment)
        out, err = process.communicate(timeout=4 * PATIENCE_S)  # a whole program, that may start several farms
        assert process.returncode == 0, f"{out}\n{err}"
        wait_all_gone(self.mark)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.communicate()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    folder = tmp_path / "user's program"
    folder.mkdir()
    script = Script(folder)
    yield script
    script.close()
    wait_all_gone(script.mark)


@pytest.fixture
def pids_of(farm: Farm) -> Callable[[], set[int]]:
    """The slots' process ids as the farm's status tells them."""

    def pids() -> set[int]:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:  # a node tells of its slots with its next heartbeat
            nodes: list[dict[str, Any]] = farm.status()["nodes"]
            found = {pid for node in nodes for pid in node["slot_pids"]}
            if len(found) == farm._max_workers:
                return found
        raise AssertionError("the node does not tell of its slots")

    return pids
