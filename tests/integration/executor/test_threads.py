"""Numerical libraries in tasks use as many threads as the task has cpus: here the real numpy with its OpenBLAS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.integration.executor.meeting import PATIENCE_S

from farmhand import Farm
from farmhand.node.threads import VARIABLES


def seen() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in VARIABLES}


def seen_below() -> str:
    """By a program that the task starts."""
    text = "import os; print(os.environ['OMP_NUM_THREADS'])"
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.strip()


def used() -> tuple[int, int]:
    """The slot's process, and the threads that numpy's library uses after it has worked."""
    import numpy as np
    from threadpoolctl import threadpool_info

    square = np.ones((300, 300))
    assert (square @ square)[0, 0] == 300
    return os.getpid(), max(library["num_threads"] for library in threadpool_info())


@pytest.fixture(scope="module")
def farm(nothing_left_behind: None) -> Iterator[Farm]:
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        with Farm(max_workers=2) as farm:
            yield farm


def test_the_environment_says_what_was_granted(farm: Farm) -> None:
    for cpus in (1, 2):
        granted = farm.options(needs=[f"cpus={cpus}"])
        assert granted.submit(seen).result(PATIENCE_S) == dict.fromkeys(VARIABLES, str(cpus))
        assert granted.submit(seen_below).result(PATIENCE_S) == str(cpus)
    assert farm.submit(seen).result(PATIENCE_S)["OMP_NUM_THREADS"] == "1"


def test_numpy_follows_also_when_it_is_loaded(farm: Farm) -> None:
    wide = farm.options(needs=["cpus=2"])
    found = [view.submit(used).result(PATIENCE_S) for view in (farm, wide) * 4]
    assert [threads for _, threads in found] == [1, 2] * 4
    both = [{threads for pid, threads in found if pid == each} for each, _ in found]
    assert {1, 2} in both, "no process ran with both"


def test_what_the_owner_of_the_node_has_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with Farm(max_workers=1) as farm:
        assert farm.submit(seen).result(PATIENCE_S) == dict.fromkeys(VARIABLES, "1") | {"OPENBLAS_NUM_THREADS": "2"}
        assert farm.submit(used).result(PATIENCE_S)[1] == 2
