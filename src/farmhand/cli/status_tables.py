"""The tables of `farmhand status`."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from farmhand.cli.status_report import Report

_NAME_WIDTH = 12
_KEYS_ON_SCREEN = 20  # sessions and lanes; JSON has them all


def overview(report: Report) -> RenderableType:
    """Everything on one screen."""
    parts: list[RenderableType] = [_headline(report)]
    if report.get("cluster"):
        parts.append(_servers(report["cluster"]))
    parts.append(_nodes(report))
    if report["sessions"]:
        parts.append(_sessions(report))
    if report["lanes"]:
        parts.append(_lanes(report))
    parts += [_unmet(lane) for lane in report["unmet"]]
    return Group(*parts)


def _headline(report: Report) -> Text:
    slots, busy = (sum(node[key] for node in report["nodes"]) for key in ("slots", "busy"))
    stored = ", ".join(f"{name} {size(part['bytes'])}" for name, part in report["engine"]["storage"].items())
    who = f"{report['address']}  Farmhand {report['version']}, engine {report['engine']['version']}"
    lines = [f"{who}; {busy} of {slots} slots busy; stored: {stored}"]
    if rates := report["rates"]:
        into, out = size(rates["bytes_in_per_second"]), size(rates["bytes_out_per_second"])
        lines.append(f"{rates['runs_per_second']:,.0f} runs/s, {into}/s in, {out}/s out")
    return Text("\n".join(lines))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        if index == 0:
            table.add_column(column, min_width=_NAME_WIDTH, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _servers(cluster: dict[str, Any]) -> Table:
    table = _table("Servers", "server", "address", "", "steward")
    for server in cluster["servers"]:
        acts = "acts" if server["name"] == cluster["acting"] else "stands by" if server["up"] else ""
        table.add_row(server["name"], server["address"], "up" if server["up"] else "DOWN", acts)
    return table


def _nodes(report: Report) -> Table:
    speed = "runs/s" if report["rates"] else "s/run"
    table = _table("Nodes", "node", "slots", "busy", "runs", "failures", "cpu s", "total s", "in", "out", speed, "")
    for node in sorted(report["nodes"], key=lambda n: n["name"]):
        note = "leaving" if node["leaving"] else f"silent {node['silent']:.1f} s" if node["silent"] > 1.5 else ""
        table.add_row(
            node["name"],
            str(node["slots"]),
            str(node["busy"]),
            f"{node['runs']:,}",
            f"{node['failures']:,}",
            *_work(node),
            _speed(node, report),
            note,
        )
    if not report["nodes"]:
        table.add_row("none")
    return table


def _sessions(report: Report) -> Table:
    speed = "runs/s" if report["rates"] else "s/run"
    table = _table(
        "Sessions", "session", "waiting", "running", "done", "failed", "cpu s", "total s", "in", "out", speed
    )
    shown = sorted(report["sessions"], key=lambda s: (-s["running"], -s["waiting"]))[:_KEYS_ON_SCREEN]
    for session in shown:
        who = f"{session['user']}@{session['host']}:{session['pid']} {session['session']}"
        counts = (f"{session[key]:,}" for key in ("waiting", "running", "done", "failed"))
        table.add_row(who, *counts, *_work(session), _speed(session, report))
    _say_rest(table, len(report["sessions"]))
    return table


def _lanes(report: Report) -> Table:
    table = _table("Lanes", "needs", "priority", "slots", "waiting", "taken")
    for lane in sorted(report["lanes"], key=lambda la: (-la["waiting"], -la["taken"]))[:_KEYS_ON_SCREEN]:
        counts = (f"{lane[key]:,}" for key in ("priority", "slots", "waiting", "taken"))
        table.add_row(wanted(lane), *counts)
    _say_rest(table, len(report["lanes"]))
    return table


def _say_rest(table: Table, count: int) -> None:
    if count > _KEYS_ON_SCREEN:
        table.add_row(f"… and {count - _KEYS_ON_SCREEN} more (--json has them all)")


def _unmet(lane: dict[str, Any]) -> Text:
    why = "; ".join(lane["lacking"]) or "there is no node"
    return Text(f"No node meets: {wanted(lane)}: {why}", style="red")


def wanted(lane: dict[str, Any]) -> str:
    """What a lane's tasks need, in words."""
    return ", ".join([*lane["needs"], *([f"Python {lane['python']}"] if lane["python"] else [])]) or "nothing"


def _work(member: dict[str, Any]) -> tuple[str, str, str, str]:
    return (
        f"{member['cpu_seconds']:,.1f}",
        f"{member['total_seconds']:,.1f}",
        size(member["bytes_in"]),
        size(member["bytes_out"]),
    )


def _speed(member: dict[str, Any], report: Report) -> str:
    value = member["runs_per_second"] if report["rates"] else member["seconds_per_run"]
    if value is None:
        return "-"
    return f"{value:,.0f}" if report["rates"] else f"{value:.4g}"


def size(count: float) -> str:
    """Bytes for people: `17 B`, `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
