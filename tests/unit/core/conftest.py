"""What the tests of the state machines share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.core.effects import Effects, all_seen


@pytest.fixture
def seen() -> Iterator[Effects]:
    with all_seen() as effects:
        yield effects
