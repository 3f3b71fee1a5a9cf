"""The engine's disk is full: new work is refused, what was accepted drains or waits, and the farm goes on by itself."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.chaos.farm import PATIENCE_S, FarmProcess, wait_until
from tests.chaos.meeting import PathMeeting
from tests.chaos.work import bytes_of, number, size_of, visit

from farmhand import Farm, errors
from farmhand.model.limits import MB

DISK = 32 * MB


def mountable() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0 and Path("/proc/mounts").exists()


pytestmark = [pytest.mark.namespace, pytest.mark.skipif(not mountable(), reason="needs root to mount a small disk")]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, mode=0o700)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr!r}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def farm_on_a_small_disk(home: Path, max_file_store: int | None) -> Iterator[tuple[FarmProcess, Farm, Path]]:
    """A farm whose engine stores on a small disk, and a client that is not taken for one of its own machine."""
    (home / "farm" / "engine").mkdir(parents=True, mode=0o700)
    with (
        small_disk(home / "farm" / "engine" / "store") as disk,
        FarmProcess(home, max_file_store=max_file_store) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("FARMHAND_HOME", str(home / "of the client"))
        with Farm(running.file.join_line, output=False) as farm:
            yield running, farm, disk


def submit_until_refused(farm: Farm, size: int) -> list[Future[int]]:
    """Large arguments until the farm takes no more."""
    accepted: list[Future[int]] = []
    try:
        while len(accepted) * size < 10 * DISK:
            accepted.append(farm.submit(size_of, os.urandom(size)))
    except errors.EngineFull as error:
        print(f"after {len(accepted)} arguments of {size} bytes: EngineFull: {error}")
        return accepted
    raise AssertionError("a small disk took ten times its size")


def fill(path: Path) -> None:
    """As another program would, to the last byte."""
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(MB))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def goes_on(farm: Farm) -> bool:
    try:
        return (
            farm.submit(size_of, os.urandom(MB)).result(PATIENCE_S) == MB
            and farm.submit(number, 3).result(PATIENCE_S) == 3
        )
    except errors.EngineFull:
        return False


def test_the_store_is_full(home: Path) -> None:
    with farm_on_a_small_disk(home, None) as (_running, farm, _disk), PathMeeting() as meeting:
        visits = [farm.submit(visit, meeting.path, i) for i in range(2)]
        visitors = [meeting.wait(), meeting.wait()]
        accepted = submit_until_refused(farm, MB)
        assert len(accepted) >= 5
        assert not any(future.done() for future in accepted)
        for visitor in visitors:
            visitor.release()
        assert [future.result(PATIENCE_S)[0] for future in visits] == [0, 1]
        assert [future.result(PATIENCE_S) for future in accepted] == [MB] * len(accepted)
        took = wait_until(lambda: goes_on(farm), "new work is taken again")
        print(f"new work was taken {took:.2f} s after the accepted had drained")


def test_many_results_do_not_fill_the_store(home: Path) -> None:
    with farm_on_a_small_disk(home, None) as (_running, farm, _disk):
        results = farm.map(bytes_of, iter([100_000] * 500), buffersize=8)
        assert all(len(data) == 100_000 for data in results)


def test_the_disk_itself_is_full(home: Path) -> None:
    with farm_on_a_small_disk(home, 10 * 1024 * MB) as (running, farm, disk):
        with PathMeeting() as meeting:
            visits = [farm.submit(visit, meeting.path, i) for i in range(2)]
            visitors = [meeting.wait(), meeting.wait()]
            accepted = [farm.submit(size_of, os.urandom(MB)) for _ in range(4)]
            ballast = disk / "ballast"
            fill(ballast)
            engine = running.one("engine").pid
            began = time.monotonic()
            accepted += submit_until_refused(farm, 200_000)
            print(f"new work was refused after {time.monotonic() - began:.2f} s")
            for visitor in visitors:
                visitor.release()
            ballast.unlink()
            began = time.monotonic()
            assert [future.result(PATIENCE_S)[0] for future in visits] == [0, 1]
            sizes = [future.result(PATIENCE_S) for future in accepted]
            print(f"what was accepted had drained {time.monotonic() - began:.2f} s after there was space")
            assert set(sizes) <= {MB, 200_000}
        wait_until(lambda: goes_on(farm), "new work is taken again")
        assert running.one("engine").pid != engine, "the engine was not restarted"
