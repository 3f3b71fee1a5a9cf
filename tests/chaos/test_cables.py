"""A cable cut under a busy slot, both ways and one way: noticed, run elsewhere within 5 s, the late outcome dropped."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.chaos import cable
from tests.chaos.cable import BOTH_WAYS, CUTS, Cable
from tests.chaos.farm import PATIENCE_S, FarmProcess, hold, node_of, wait_until
from tests.chaos.meeting import PathMeeting
from tests.chaos.test_freezes import both_nodes_work, incarnations
from tests.chaos.work import number, visit

from farmhand import Farm
from farmhand.home.enrol import enrol
from farmhand.model.address import parse_address
from farmhand.security.permissions import Role

pytestmark = [pytest.mark.namespace, pytest.mark.skipif(not cable.possible(), reason="needs root, ip and iptables")]
Measured = Callable[[str, float, float], None]


@contextmanager
def far_node(line: str, wire: Cable, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node on the other machine, enrolled with the join line."""
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARMHAND_HOME", str(folder))
        enrolled = enrol(line, Role.NODE, "far")
    command = [*wire.prefix, sys.executable, "-P", "-m", "farmhand.node", "--address", str(enrolled.address),
               "--key", str(enrolled.key), "--node", "far", "--slots", "1", "--cache", str(folder / "cache"),
               "--spool", str(folder / "spool"), "--grace", "0.5", "--log", str(folder / "node.log")]  # fmt: skip
    if enrolled.ca is not None:
        command += ["--ca", str(enrolled.ca)]
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield node
    finally:
        node.terminate()
        assert node.wait(PATIENCE_S) == 0, (folder / "node.log").read_text()


def test_a_cut_under_a_busy_slot(home: Path, tmp_path: Path, measured: Measured) -> None:
    with (
        Cable() as wire,
        FarmProcess(home, nodes=(1,), listen=wire.address, insecure_plaintext=True) as running,
        far_node(running.file.join_line, wire, tmp_path / "far away") as far,
        Farm(running.file.address) as farm,
        PathMeeting() as meeting,
    ):
        wait_until(lambda: far.pid in incarnations(farm), "the far node")
        for how in CUTS:
            before = incarnations(farm)[far.pid]
            futures = {word: farm.submit(visit, meeting.path, word) for word in ("a", "b")}
            visitors = [meeting.wait(), meeting.wait()]
            late = next(visitor for visitor in visitors if node_of(visitor.pid).pid == far.pid)
            other = next(visitor for visitor in visitors if visitor is not late)
            other.release()
            assert futures[other.word].result(PATIENCE_S)[0] == other.word
            with wire.cut(how):
                began = time.monotonic()
                again = meeting.wait()
                measured(f"cut {how}: ran elsewhere after", time.monotonic() - began, 5.0)
                assert (again.word, node_of(again.pid).pid != far.pid) == (late.word, True)
                late.release()
            healed = time.monotonic()
            wait_until(lambda before=before: incarnations(farm).get(far.pid, before) != before, "the far node is back")
            print(f"cut {how}: the node was back {time.monotonic() - healed:.2f} s after the cable was")
            assert not futures[late.word].done(), "the late outcome counted"
            again.release()
            assert futures[late.word].result(PATIENCE_S) == (late.word, again.pid)
            assert both_nodes_work(farm)
        print(farm._driver.core.counts)


def test_tls_over_a_cable_that_is_cut_for_a_moment(home: Path, tmp_path: Path) -> None:
    with (
        Cable() as wire,
        FarmProcess(home, nodes=(), listen=wire.address) as running,
        far_node(running.file.join_line, wire, tmp_path / "far away") as far,
        Farm(running.file.address) as farm,
        PathMeeting() as meeting,
    ):
        assert parse_address(running.file.address).encrypted
        future = farm.submit(visit, meeting.path, "a")
        visitor = meeting.wait()
        before = incarnations(farm)[far.pid]
        with wire.cut(BOTH_WAYS):
            hold(1.0)  # shorter than the lease: nobody is declared lost
        visitor.release()
        assert future.result(PATIENCE_S) == ("a", visitor.pid)
        assert incarnations(farm)[far.pid] == before
        assert list(farm.map(number, range(200))) == list(range(200))
