"""joblib's own backend and ours, on the same calls."""

from __future__ import annotations

import importlib
import importlib.util
import time
from typing import Any, Final

from farmhand.bench import workloads
from farmhand.bench.table import Row, compare

CALLS: Final = 1000
SECONDS: Final = 0.010


def measure(slots: int) -> dict[str, Any]:
    """How much of the slots' time `joblib.Parallel` spends in CALLS naps, in per cent, by contender."""
    import joblib

    from farmhand import Farm

    importlib.import_module("farmhand.joblib")  # makes the backend known
    found = {}
    with Farm(max_workers=slots) as farm:
        for name, options in (("farmhand", {"backend": "farmhand", "farm": farm}), ("loky", {"backend": "loky"})):
            with joblib.parallel_config(**options):  # type: ignore[no-untyped-call,unused-ignore]
                found[name] = max(_share(joblib, slots) for _ in range(1 + workloads.REPEATS))
    return found


def _share(joblib: Any, slots: int) -> float:
    began = time.perf_counter()
    joblib.Parallel(n_jobs=slots)(joblib.delayed(workloads.nap)(SECONDS) for _ in range(CALLS))
    return 100 * CALLS * SECONDS / (slots * (time.perf_counter() - began))


def rows(figures: dict[str, float]) -> list[Row]:
    """The row of the table."""
    return [
        compare(f"joblib.Parallel, {CALLS:,} naps of {SECONDS * 1000:g} ms: share of the slots' time", "%", figures)
    ]


def installed() -> bool:
    """Whether joblib is there."""
    return importlib.util.find_spec("joblib") is not None
