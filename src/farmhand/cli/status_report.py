"""What `farmhand status` adds to the steward's answer: means over all runs, rates between two looks, unmet needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Report = dict[str, Any]


def add_means(report: Report) -> Report:
    """Means per run, from totals, and the lanes that no node serves."""
    for node in report["nodes"]:
        _mean(node, node["runs"])
    for session in report["sessions"]:
        _mean(session, session["done"] + session["failed"])
    report["unmet"] = [
        {"needs": lane["needs"], "python": lane["python"], "waiting": lane["waiting"], "lacking": lane["lacking"]}
        for lane in report["lanes"]
        if not lane["slots"] and (lane["waiting"] or lane["lacking"])
    ]
    report["rates"] = None
    return report


def _mean(member: dict[str, Any], runs: int) -> None:
    """Seconds that a run took, and the share of them in which it used a processor; None before the first run."""
    total = member["total_seconds"]
    member["seconds_per_run"] = round(total / runs, 6) if runs else None
    member["cpu_share"] = round(min(member["cpu_seconds"] / total, 99.0), 3) if total > 0 else None
    member["runs_per_second"] = None


def add_rates(report: Report, before: Report, seconds: float) -> Report:
    """What happened in the `seconds` since the look before."""
    seconds = max(seconds, 1e-6)
    earlier = {node["incarnation"]: node for node in before["nodes"]}
    for node in report["nodes"]:
        known = earlier.get(node["incarnation"])
        node["runs_per_second"] = None if known is None else _rate([node], [known], "runs", seconds)
    sessions = {session["session"]: session for session in before["sessions"]}
    for session in report["sessions"]:
        known = sessions.get(session["session"])
        ended = (
            None if known is None else sum(_rate([session], [known], field, seconds) for field in ("done", "failed"))
        )
        session["runs_per_second"] = ended
    same = [node for node in report["nodes"] if node["incarnation"] in earlier]
    then = [earlier[node["incarnation"]] for node in same]
    report["rates"] = {
        "seconds": round(seconds, 3),
        "runs_per_second": _rate(same, then, "runs", seconds),
        "bytes_in_per_second": _rate(same, then, "bytes_in", seconds),
        "bytes_out_per_second": _rate(same, then, "bytes_out", seconds),
    }
    return report


def _rate(now: Iterable[dict[str, Any]], then: Iterable[dict[str, Any]], field: str, seconds: float) -> float:
    change = float(sum(member[field] for member in now) - sum(member[field] for member in then))
    return round(max(change, 0.0) / seconds, 2)
