"""The neighbours' tests share what the executor's tests share: a farm, a place to meet its tasks, and proof that nothing is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.executor.conftest import farm, meeting, nothing_left_behind, script, tally

from farmhand.client.embedded import EmbeddedFarm

__all__ = ["farm", "meeting", "nothing_left_behind", "script", "standing_farm", "tally"]

STANDING_SLOTS = 3


@pytest.fixture
def standing_farm(nothing_left_behind: None) -> Iterator[str]:
    """A farm that this user runs on this machine, as `farmhand up` leaves it: its address."""
    embedded = EmbeddedFarm((STANDING_SLOTS,))
    address = embedded.wait_ready().address
    link = Path(os.environ["FARMHAND_HOME"]) / "farm"
    link.symlink_to(embedded.folder.root)
    yield address
    link.unlink()
    embedded.close()
