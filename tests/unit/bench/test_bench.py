"""The bench's arithmetic and its manners; what it measures is measured by `make bench`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from farmhand import errors
from farmhand.bench import run, solo, workloads

KEYS = [
    "submit",
    "map",
    "p50",
    "p99",
    "argument",
    "result",
    "sharing",
    *(f"nap {seconds}" for seconds, _, _ in run.NAPS),
]


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def figures_of(name: str, _slots: int, _quick: bool) -> dict[str, float]:
    if name == "loky":
        raise RuntimeError("its workers died")
    return dict.fromkeys(KEYS, 80.0 if name == "farmhand" else 16.0)


def test_every_workload_runs_on_any_executor(pool: Executor) -> None:
    workloads.warm(pool)
    assert workloads.submit_rate(pool, 50) > 0
    assert workloads.map_rate(pool, 50) > 0
    median, slow = workloads.latencies(pool, 100)
    assert 0 < median <= slow
    assert workloads.argument_rate(pool) > 0
    assert workloads.result_rate(pool) > 0
    assert 0 < workloads.nap_share(pool, 0.001, 20, 2) <= 1
    assert 0 < workloads.bare_share(0.001, 20) <= 1


def test_a_wrong_result_is_no_figure() -> None:
    class Liar(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(None)
            return future

    for measure in (workloads.submit_rate, workloads.map_rate):
        with pytest.raises((AssertionError, TypeError)):
            measure(Liar(), 3)
    with pytest.raises(AssertionError):
        workloads.argument_rate(Liar())


def test_growth_is_the_slope() -> None:
    assert solo.slope([5.0, 5.0, 5.0]) == 0
    assert solo.slope([1.0, 3.0, 5.0, 7.0]) == pytest.approx(2)
    assert solo.slope([10.0, 14.0, 10.0, 14.0, 10.0, 14.0, 10.0]) == pytest.approx(0)  # garbage comes and goes


def test_a_contender_that_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "_measure_contender", figures_of)
    monkeypatch.setattr(run, "_alone", lambda *_: [])
    monkeypatch.setattr(run, "installed", lambda name: name != "parsl")
    monkeypatch.setattr(workloads, "bare_share", lambda *_: 0.8)
    assert run.main("ppe,loky,parsl", as_markdown=True) == 0
    out, err = capsys.readouterr()
    assert "not installed, left out: parsl" in err
    assert "loky failed and is left out: RuntimeError: its workers died" in err
    assert "| measure | unit | farmhand | ppe | ratio |" in out
    assert "| 80 | 16 | 5.00 x | >= 4 x pool | met |" in out


def test_a_missed_target_is_an_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run, "_measure_contender", lambda *_: dict.fromkeys(KEYS, 80.0))
    monkeypatch.setattr(run, "_alone", lambda *_: [])
    monkeypatch.setattr(workloads, "bare_share", lambda *_: 0.8)
    assert run.main("ppe", as_markdown=True) == 1
    assert "MISSED" in capsys.readouterr().out


def test_an_unknown_contender() -> None:
    with pytest.raises(errors.BadOption, match="unknown contender spark; one of farmhand, ppe, loky"):
        run.main("ppe,spark")
