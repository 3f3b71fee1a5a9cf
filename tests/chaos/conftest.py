"""What the chaos tests share: a home of their own, and proof that nothing is left behind 2 s after a farm has ended."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.chaos.farm import NOISE_S
from tests.chaos.history import Effects
from tests.chaos.meeting import PathMeeting
from tests.integration.executor.conftest import MARK, processes_with

ORPHANS_S = 2.0  # promised


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """$FARMHAND_HOME of one test. At its end no process that it started may live for 2 s longer."""
    mark, folder = uuid.uuid4().hex, tmp_path / "a home"
    folder.mkdir()
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("FARMHAND_HOME", str(folder))
    monkeypatch.delenv("FARMHAND_FARM", raising=False)
    yield folder
    began = time.monotonic()
    if left := processes_with(mark):
        _, alive = psutil.wait_procs(left, timeout=ORPHANS_S + NOISE_S)
        for process in alive:
            process.kill()
        assert not alive, f"left behind: {[(p.pid, p.name()) for p in alive]}"
        print(f"the last of {len(left)} processes ended after {time.monotonic() - began:.2f} s")


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    return Effects(tmp_path / "effects")


@pytest.fixture
def meeting() -> Iterator[PathMeeting]:
    with PathMeeting() as meeting:
        yield meeting


@pytest.fixture
def dice() -> random.Random:
    """Chance that can be repeated: FARMHAND_CHAOS_SEED, else a new seed, which is printed."""
    import os

    seed = int(os.environ.get("FARMHAND_CHAOS_SEED") or random.SystemRandom().randrange(10**9))
    print(f"FARMHAND_CHAOS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, float, float], None]:
    """Print a measured time beside what is promised, and see that the promise holds but for the machine's noise."""

    def note(what: str, seconds: float, promised: float) -> None:
        print(f"MEASURED {request.node.name}: {what}: {seconds:.2f} s (promised {promised:g} s)")
        assert seconds < promised + NOISE_S

    return note
