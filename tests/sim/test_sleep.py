"""Worlds in which every machine sleeps for about an hour, the engine's too, and the clocks go on; otherwise as all others."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from farmhand.core.pauses import Pauses
from farmhand.testing.world import SLEEP_S, run_chunk, run_seed

SEEDS = int(os.environ.get("FARMHAND_SIM_SEEDS", "2000")) // 8
FROM = int(os.environ.get("FARMHAND_SIM_FROM", "100000"))
CHUNK = 50


def test_every_promise_holds_when_everything_sleeps() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        chunks = [pool.submit(run_chunk, first, CHUNK, sleeps=True) for first in range(FROM, FROM + SEEDS, CHUNK)]
        verdicts = [verdict for chunk in chunks for verdict in chunk.result()]
    broken = [f"seed {verdict.seed}: {verdict.problem}" for verdict in verdicts if verdict.problem]
    assert not broken, "\n".join(broken[:20])
    assert sum(verdict.seconds > SLEEP_S / 2 for verdict in verdicts) == len(verdicts)


def test_the_simulation_notices_a_timeout_that_counts_the_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pauses, "since", lambda *_: 0.0)
    seeds = range(650, 780)  # one world in a few hundred has a task that shows it
    assert any("had time enough" in run_seed(seed, sleeps=True).problem for seed in seeds)
