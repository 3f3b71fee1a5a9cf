"""A farm whose uv keeps nothing between builds, so that each build is seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.executor.conftest import meeting, nothing_left_behind

from farmhand import Farm

__all__ = ["meeting", "nothing_left_behind"]


@pytest.fixture(scope="module", autouse=True)
def own_uv(nothing_left_behind: None) -> Iterator[None]:
    """Nothing of this machine's settings for uv."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_NO_CACHE", "1")
        patch.setenv("UV_HTTP_RETRIES", "0")
        for name in ("UV_OFFLINE", "UV_NO_INDEX", "PIP_NO_INDEX"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def farm(own_uv: None) -> Iterator[Farm]:
    """Two nodes on one machine, of one slot each."""
    with Farm(max_workers=2, nodes=2, output=False) as farm:
        yield farm


@pytest.fixture
def single(own_uv: None) -> Iterator[Farm]:
    """A farm of one slot."""
    with Farm(max_workers=1, output=False) as farm:
        yield farm
