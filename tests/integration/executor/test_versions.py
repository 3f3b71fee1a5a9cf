"""Parts of neighbouring versions meet: they are refused with an error that names both, and the farm goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.executor.meeting import PATIENCE_S

import farmhand
from farmhand import Farm, errors
from farmhand.client.embedded import EmbeddedFarm
from farmhand.engine import subjects
from farmhand.engine.asking import ask_steward
from farmhand.engine.connection import Connection
from farmhand.engine.ordered import OrderedReader
from farmhand.model import messages, peers
from farmhand.model.messages import LaneRequest, NodeBeat, SessionBeat, Work, encode, pack
from farmhand.model.needs import Lane
from farmhand.model.peers import check_peer
from farmhand.model.version import VERSION
from farmhand.node import lanes

OWN, NEXT = messages.PROTOCOL, messages.PROTOCOL + 1


@pytest.fixture(scope="module")
def embedded(nothing_left_behind: None) -> Iterator[EmbeddedFarm]:
    embedded = EmbeddedFarm((1,))
    embedded.wait_ready()
    yield embedded
    embedded.close()


@pytest.fixture(scope="module")
def line(embedded: EmbeddedFarm) -> str:
    return embedded.wait_ready().join_line


def ask(embedded: EmbeddedFarm, verb: str, request: dict[str, Any]) -> Any:
    async def meet() -> Any:
        connection = await Connection.open(embedded.options())
        try:
            return await ask_steward(connection, verb, encode(request))
        finally:
            await connection.close()

    return asyncio.run(meet())


def wait_for(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_client_of_a_newer_protocol(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PROTOCOL", NEXT)
    wanted = rf"the farm at \S+ runs Farmhand {VERSION} \(protocol {OWN}\), this client .*protocol {NEXT}.*: update the farm at"
    with pytest.raises(errors.VersionMismatch, match=wanted):
        Farm(line)


@pytest.mark.parametrize(("protocol", "older"), [(NEXT, "the farm"), (0, "the client")])
def test_a_request_for_a_lane(embedded: EmbeddedFarm, protocol: int, older: str) -> None:
    request = {"protocol": protocol, "version": "7.7", "lane": "of another shape"}
    with pytest.raises(errors.VersionMismatch, match=rf"7\.7 \(protocol {protocol}\).*{VERSION}.*: update {older}$"):
        ask(embedded, "lane", request)


def test_a_lane_of_a_newer_version_of_the_same_protocol(embedded: EmbeddedFarm) -> None:
    known = msgspec.to_builtins(LaneRequest(messages.PROTOCOL, "7.7", Lane(priority=7)))
    known["lane"]["colour"] = known["colour"] = "green"
    assert ask(embedded, "lane", known)["state"]["id"] == Lane(priority=7).id


def test_a_machine_that_wants_to_join(
    embedded: EmbeddedFarm, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path))
    monkeypatch.setattr(messages, "PROTOCOL", NEXT)
    with pytest.raises(errors.VersionMismatch, match=rf"wants to join runs .*protocol {NEXT}.*: update the farm$"):
        farmhand.join(line, name="newer")


def test_a_node_takes_no_work_from_a_farm_of_another_protocol(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has joined before; then the farm is updated, and later the node is."""
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path))
    with Farm(line) as farm:
        newer = lambda peer, version, protocol, own: check_peer(peer, "7.7", NEXT, own)  # noqa: E731
        monkeypatch.setattr(lanes, "check_peer", newer)
        with caplog.at_level(logging.ERROR), farmhand.join(line, name="barn", capabilities=["barn"]):
            wait_for(lambda: caplog.messages, "it says so")
            future = farm.options(needs=["barn"]).submit(os.getpid)
            assert farm.submit(abs, -1).result(PATIENCE_S) == 1
            assert not future.done()
            monkeypatch.setattr(lanes, "check_peer", check_peer)
            farm.options(needs=["barn"], priority=1).submit(abs, 1)  # a new lane: the table is said again
            assert future.result(PATIENCE_S) == os.getpid()
    said = [text for text in caplog.messages if "no work is taken" in text]
    assert len(said) == 1
    assert (
        f"runs Farmhand 7.7 (protocol {NEXT}), node barn Farmhand {VERSION} (protocol {OWN}): update node barn"
        in said[0]
    )


def test_beats_and_work_of_another_protocol(embedded: EmbeddedFarm) -> None:
    """Nobody stumbles: they are left out, and the work is reported as refused to its session."""
    lane = Lane(python=f"{os.sys.version_info.major}.{os.sys.version_info.minor}")  # type: ignore[attr-defined]
    ask(embedded, "lane", msgspec.to_builtins(LaneRequest(messages.PROTOCOL, VERSION, lane)))
    beat = msgspec.to_builtins(NodeBeat(NEXT, "7.7", "n", "n", "i", "h", 1, 1, 0, "3.11", {})) | {
        "slots": "of another shape"
    }
    alive = msgspec.to_builtins(SessionBeat(NEXT, "7.7", "k7", "h", 1, "u"))
    work = msgspec.to_builtins(Work(NEXT, "k7", 77, 2, messages.Profile("c")))
    work[4] = "of another shape"

    async def meet() -> messages.Report:
        connection = await Connection.open(embedded.options())
        reported: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        reader = OrderedReader(connection, subjects.RESULT, subjects.result("k7", "*"),
                               lambda _number, _subject, data: reported.set_result(bytes(data)))  # fmt: skip
        await reader.start()
        try:
            connection.publish(subjects.beat_of_node("n"), encode(beat))
            connection.publish(subjects.beat_of_session("k7"), encode(alive))
            frame = encode(work)
            connection.publish(subjects.work(lane.id, "k7"), len(frame).to_bytes(4, "big") + frame)
            return messages.read_report(messages.split(await asyncio.wait_for(reported, PATIENCE_S))[0])
        finally:
            reader.close()
            await connection.close()

    report = asyncio.run(meet())
    assert (report.token, report.first, report.count) == (77, 0, 2)
    assert all(f"the client runs protocol {NEXT}" in mark.text and VERSION in mark.text for mark in report.marks)
    assert pack(report)
    log = embedded.folder.logs / "steward.log"
    wait_for(lambda: log.read_text().count("ses.k7.beat is left out"), "the steward says so")
    with Farm(embedded.wait_ready().join_line) as farm:
        assert farm.submit(abs, -1).result(PATIENCE_S) == 1


def test_farmhand_is_updated_while_a_node_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that is started afterwards is of the new version: the node starts again, and then all of it is."""
    flag = tmp_path / "updated"
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
        import os, sys
        if os.path.exists({str(flag)!r}) and "farmhand.node" in sys.orig_argv or "farmhand.node.slot" in sys.orig_argv:
            import farmhand.model.version as version
            if os.path.exists({str(flag)!r}):
                version.VERSION = "7.7"
    """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Farm(max_workers=1) as farm:

        def node() -> dict[str, Any]:
            return next(iter(farm.status()["nodes"]), {"pid": agent})

        agent = 0
        first = farm.submit(os.getpid).result(PATIENCE_S)
        wait_for(lambda: node()["pid"], "the steward has heard of it")
        agent = node()["pid"]
        flag.touch()
        os.kill(first, signal.SIGKILL)
        assert farm.submit(os.getpid).result(PATIENCE_S) != first
        wait_for(lambda: node()["pid"] != agent, "another agent has come")
        assert node()["version"] == "7.7"
        assert farm._embedded is not None
        said = "".join(path.read_text() for path in farm._embedded.folder.logs.glob("node-*.log"))
        assert f"slot 0 runs Farmhand 7.7 (protocol {OWN}), its agent {VERSION} (protocol {OWN})" in said
