"""A farm that pages share, and a folder for each page."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.pagerun import BIN, environment


@pytest.fixture(scope="session")
def shared_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which `Farm()` finds a farm of two slots that runs already."""
    env = environment(tmp_path_factory.mktemp("docs home"))
    command = [BIN / "farmhand", "up", "--detach", "--slots", "2", "--json"]
    up = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    try:
        yield {**env, "FARMHAND_FARM": json.loads(up.stdout)["address"]}
    finally:
        down(env)


def down(env: dict[str, str]) -> None:
    subprocess.run([BIN / "farmhand", "down", "--now", "--json"], env=env, capture_output=True, check=True, timeout=60)


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine on which Farmhand has never run."""
    home = tmp_path / "home with a blank"
    home.mkdir(mode=0o700)
    env = environment(home)
    yield env
    down(env)
