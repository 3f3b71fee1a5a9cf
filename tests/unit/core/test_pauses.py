from __future__ import annotations

from farmhand.core.pauses import Pauses
from farmhand.model.limits import STOPPED_S


def test_time_that_is_looked_at_is_no_pause() -> None:
    pauses = Pauses(100.0)
    assert [pauses.look(100.0 + i * STOPPED_S / 2) for i in range(1, 20)] == [0.0] * 19
    assert pauses.since(0.0, 100.0 + 10 * STOPPED_S) == 0.0


def test_a_pause_counts_from_the_beginning_of_what_began_in_it() -> None:
    pauses = Pauses(0.0)
    assert pauses.look(3600.0) == 3600.0
    assert pauses.since(0.0, 3600.5) == 3600.0
    assert pauses.since(-5.0, 3600.5) == 3600.0
    assert pauses.since(3000.0, 3600.5) == 600.0
    assert pauses.since(3600.0, 3600.5) == 0.0


def test_pauses_add_up_and_the_one_that_ends_now_counts() -> None:
    pauses = Pauses(0.0)
    pauses.look(10.0)
    pauses.look(10.5)
    assert pauses.since(1.0, 30.5) == 9.0 + 20.0
