"""Thousands of simulated worlds, one for each seed, run by the product's own core. See `farmhand.testing.world`.

FARMHAND_SIM_SEEDS=20000 pytest tests/sim/test_seeds.py       more seeds
FARMHAND_SIM_FROM=1000000 ...                                 other seeds
python -m farmhand.testing 4711                               one seed, with everything that happened in it
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from farmhand.testing.world import run_chunk, run_seed

SEEDS = int(os.environ.get("FARMHAND_SIM_SEEDS", "2000"))
FROM = int(os.environ.get("FARMHAND_SIM_FROM", "100000"))
CHUNK = 50


def once_failed() -> Iterator[int]:
    """The seeds of `seeds.txt`."""
    for line in Path(__file__).with_name("seeds.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield int(line.split()[0])


@pytest.mark.parametrize("seed", list(once_failed()))
def test_a_seed_that_failed_once_holds(seed: int) -> None:
    trace: list[str] = []
    verdict = run_seed(seed, trace)
    assert not verdict.problem, "\n".join([*trace[-60:], verdict.problem])


def test_every_promise_holds_in_every_world() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        firsts = range(FROM, FROM + SEEDS, CHUNK)
        chunks = [pool.submit(run_chunk, first, min(CHUNK, FROM + SEEDS - first)) for first in firsts]
        verdicts = [verdict for chunk in chunks for verdict in chunk.result()]
    broken = [f"seed {verdict.seed}: {verdict.problem}" for verdict in verdicts if verdict.problem]
    events, calls = sum(v.events for v in verdicts), sum(v.calls for v in verdicts)
    print(f"{len(verdicts)} worlds, {events} events, {calls} tasks, {sum(v.runs for v in verdicts)} runs")
    assert not broken, "\n".join(broken[:20])
    assert len(verdicts) == SEEDS


def test_a_seed_is_always_the_same_world() -> None:
    first: list[str] = []
    second: list[str] = []
    assert run_seed(12, first) == run_seed(12, second)
    assert first == second
    assert len(first) > 20


def test_the_worlds_are_worth_looking_at() -> None:
    """Work is done in them, some of it more than once, and not all of it ends well."""
    verdicts = run_chunk(0, 40)
    assert sum(verdict.calls for verdict in verdicts) > 400
    # A call whose input has failed does not run.
    assert sum(verdict.runs for verdict in verdicts) > 0.8 * sum(verdict.calls for verdict in verdicts)
