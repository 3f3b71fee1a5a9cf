from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farmhand import errors
from farmhand.model.outcome import Kind
from farmhand.model.retry import CAUSES, Retry


@pytest.mark.parametrize("options", [{"max": -1}, {"delay": -0.1}, {"factor": 0.5}, {"on": ("rain",)}, {"delay": float("nan")},
                                     {"factor": float("inf")}])  # fmt: skip
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(errors.BadOption):
        Retry(**options)


def test_a_retry_is_for_its_causes_and_so_many_times() -> None:
    retry = Retry(2, on=("error", "crash"))
    assert retry.allows(Kind.RAISED, 0)
    assert retry.allows(Kind.CRASHED, 1)
    assert not retry.allows(Kind.RAISED, 2)
    assert not retry.allows(Kind.TIMED_OUT, 0)
    assert not Retry().allows(Kind.RAISED, 0)
    assert not Retry(2).allows(Kind.ENVIRONMENT, 0)
    assert Retry(2, on=("environment",)).allows(Kind.ENVIRONMENT, 0)
    assert not any(Retry(9, on=tuple(CAUSES)).allows(kind, 0) for kind in (Kind.LOST, Kind.KILLED, Kind.RETURNED))


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1e6), st.floats(1, 1e6), st.floats(0, 1e6), st.integers(0, 5000), st.floats(0, 1))
def test_a_pause_is_bounded(delay: float, factor: float, most: float, failures: int, spread: float) -> None:
    pause = Retry(9999, delay, factor, most).pause(failures, spread)
    assert 0 <= pause <= most * 1.25


def test_pauses_grow() -> None:
    retry = Retry(5, 1.0, 2.0, 5.0)
    assert [retry.pause(failures, 0.5) for failures in range(4)] == [1.0, 2.0, 4.0, 5.0]
    assert Retry(5, 0.0, 9.0).pause(4000, 1.0) == 0.0
