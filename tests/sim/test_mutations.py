"""A simulation proves something only if it notices when a safeguard is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sim.mutations import MUTATIONS, Mutation

from farmhand.testing.world import run_seed

SEEDS_MAX = 500


def first_problem() -> Iterator[str]:
    for seed in range(SEEDS_MAX):
        if problem := run_seed(seed).problem:
            yield problem
            return


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.takes_away)
def test_the_simulation_notices_what_is_missing(mutation: Mutation) -> None:
    with mutation.applied():
        problem = next(first_problem(), "")
    assert problem, f"{SEEDS_MAX} seeds did not notice that {mutation.takes_away} is missing"


def test_there_are_twelve_at_least() -> None:
    assert len({mutation.takes_away for mutation in MUTATIONS}) >= 12
