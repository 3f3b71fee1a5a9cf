"""Large arguments and results: on one machine as files in memory, over the network in chunks."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive

from farmhand import Farm, errors

MB = 1024 * 1024


def checksum(data: Any) -> int:
    return int(np.frombuffer(data, dtype=np.uint8).sum())


def produce(size: int, fill: int = 1) -> bytes:
    return bytes([fill]) * size


@pytest.fixture(scope="module", params=["shared memory", "network"])
def any_farm(request: pytest.FixtureRequest, nothing_left_behind: None) -> Iterator[Farm]:
    """The same farm as if it were on this machine, and as if it were elsewhere."""
    with Farm(max_workers=2, output=False, shared_memory=request.param == "shared memory") as farm:
        yield farm


def test_a_hundred_megabytes_each_way(any_farm: Farm) -> None:
    data = np.arange(100 * MB, dtype=np.uint8)
    assert any_farm.submit(checksum, data).result(PATIENCE_S) == checksum(data)
    back = any_farm.submit(np.arange, 100 * MB, dtype=np.uint8).result(PATIENCE_S)
    assert np.array_equal(back, data)


@pytest.mark.parametrize("size", [128 * 1024 - 200, 128 * 1024, 128 * 1024 + 1, MB, MB + 1, 9 * MB, 11 * MB])
def test_sizes_around_the_borders(any_farm: Farm, size: int) -> None:
    data = os.urandom(size)
    assert any_farm.submit(bytes.__add__, data, b"!").result(PATIENCE_S) == data + b"!"


def test_many_large_ones_at_once(any_farm: Farm) -> None:
    sizes = [(MB + i) for i in range(24)]
    futures = [any_farm.submit(produce, size, i) for i, size in enumerate(sizes)]
    for i, (size, future) in enumerate(zip(sizes, futures, strict=True)):
        assert future.result(PATIENCE_S) == bytes([i]) * size
    arguments = [produce(size, i) for i, size in enumerate(sizes)]
    assert list(any_farm.map(checksum, arguments)) == [i * size for i, size in enumerate(sizes)]


def test_large_ones_of_unknown_size_and_among_keywords(any_farm: Farm) -> None:
    nested = {"a": [{"b": ["x" * 50_000] * 10, "c": list(range(100_000))}]}
    assert any_farm.submit(lambda value: value, value=nested).result(PATIENCE_S) == nested


def test_a_large_argument_of_a_task_that_fails(any_farm: Farm) -> None:
    data = produce(MB)

    def fail(_: bytes) -> None:
        raise ValueError("large")

    assert isinstance(any_farm.submit(fail, data).exception(PATIENCE_S), ValueError)


def test_a_large_argument_survives_a_crash(any_farm: Farm, tally: Any) -> None:
    def crash_once(data: bytes) -> int:
        if tally.add() == 1:
            os._exit(1)
        return len(data)

    assert any_farm.submit(crash_once, produce(3 * MB)).result(PATIENCE_S) == 3 * MB


def test_a_large_result_that_cannot_be_read(any_farm: Farm) -> None:
    class Bomb:
        def __init__(self, ballast: bytes) -> None:
            self.ballast = ballast

        def __reduce__(self) -> Any:
            return int, ("no number", self.ballast)

    for _ in range(8):
        error = any_farm.submit(lambda: Bomb(bytes(20 * MB))).exception(PATIENCE_S)
        assert isinstance(error, errors.ResultUndecodable)


def test_a_callback_that_submits_a_large_argument(any_farm: Farm) -> None:
    outcomes: list[Any] = []
    done = threading.Event()

    def again(_: Future[int]) -> None:
        try:
            any_farm.status()
        except RuntimeError as error:
            outcomes.append(str(error))
        any_farm.submit(checksum, produce(5 * MB)).add_done_callback(finish)

    def finish(future: Future[int]) -> None:
        outcomes.append(future.result())
        done.set()

    any_farm.submit(checksum, b"").add_done_callback(again)
    assert done.wait(PATIENCE_S)
    assert outcomes == ["a future's callback cannot wait for the farm's answer; ask from another thread", 5 * MB]


def test_nothing_large_stays_behind(any_farm: Farm, meeting: Meeting) -> None:
    blockers = [any_farm.submit(arrive, meeting.place) for _ in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    waiting = [any_farm.submit(checksum, produce(2 * MB)) for _ in range(5)]
    for future in waiting:
        assert future.cancel()
    for visitor in visitors:
        visitor.release()
    for blocker in blockers:
        blocker.result(PATIENCE_S)
    assert any_farm.submit(checksum, produce(2 * MB)).result(PATIENCE_S) == 2 * MB
    embedded = any_farm._embedded
    assert embedded is not None
    spool = Path(embedded.wait_ready().spool)
    deadline = time.monotonic() + PATIENCE_S  # the clean-up follows the outcomes by a moment
    while left := _large_files(spool):
        assert any_farm.status()
        assert time.monotonic() < deadline, left
    while any_farm.status()["engine"]["storage"]["blob"]["bytes"] >= 2 * MB:
        assert time.monotonic() < deadline


def _large_files(folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_size >= MB:
                found.append(path)
    return found


def test_leaving_the_farm_waits_for_large_results_on_their_way() -> None:
    with Farm(max_workers=2, output=False) as farm:
        local = [farm.submit(produce, 30 * MB) for _ in range(3)]
    assert [len(f.result(0)) for f in local] == [30 * MB] * 3
    with Farm(max_workers=2, output=False, shared_memory=False) as farm:
        remote = [farm.submit(produce, 30 * MB) for _ in range(3)]
    assert [len(f.result(0)) for f in remote] == [30 * MB] * 3
