"""`farmhand queues`: what waits in each lane, whose it is, how old it is and how quickly it goes."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import click

from farmhand.cli.contact import Contact
from farmhand.cli.main import farm_option, json_option

_LOOK_S: Final = 1.0  # between the two looks that a rate needs
_LANES_ON_SCREEN: Final = 20  # JSON has them all


@click.command("queues")
@click.option("--now", is_flag=True, help="Answer at once, without rates: they need two looks, a second apart.")
@farm_option
@json_option
def command(now: bool, farm: str | None, as_json: bool) -> None:
    """Show each lane: what its tasks need, slots that serve it, messages and tasks in it, their sessions, the age of the
    oldest, and the rate.
    """
    from farmhand.home.process import new_loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        report = runner.run(_look(farm, rates=not now))
    if as_json:
        click.echo(json.dumps(report))
        return
    from rich.console import Console

    Console().print(_table(report["lanes"]))


async def _look(farm: str | None, *, rates: bool) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    async with Contact(farm) as contact:
        report, at = await contact.ask("queues"), loop.time()
        before: dict[str, int] = {}
        if rates:
            before = {lane["id"]: lane["deliveries"] for lane in report["lanes"]}
            await asyncio.sleep(_LOOK_S)
            report, at = await contact.ask("queues"), loop.time() - at
    for lane in report["lanes"]:
        known = before.get(lane["id"])
        rate = None if known is None else max(0, lane["deliveries"] - known) / max(at, 1e-6)
        lane["messages_per_second"] = None if rate is None else round(rate, 2)
        lane["tasks_per_second"] = None if rate is None else round(rate * lane["tasks_per_message"], 2)
    return report


def _table(lanes: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    from farmhand.cli.status_tables import wanted

    table = Table(title="Lanes", title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("needs", min_width=12, overflow="fold")
    for column in ("priority", "slots", "waiting", "taken", "tasks", "oldest", "messages/s", "tasks/s"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("sessions", min_width=18, overflow="fold")
    for lane in sorted(lanes, key=lambda la: (-la["waiting"], -la["taken"]))[:_LANES_ON_SCREEN]:
        about = "~" if lane["tasks_estimated"] else ""
        tasks = lane["tasks_waiting"] + lane["tasks_taken"]
        table.add_row(
            wanted(lane), str(lane["priority"]), f"{lane['slots']:,}", f"{lane['waiting']:,}", f"{lane['taken']:,}",
            f"{about}{tasks:,}", duration(lane["oldest_seconds"]), _rate(lane["messages_per_second"], ""),
            _rate(lane["tasks_per_second"], "~"),
            ", ".join(f"{s['session']} ({s['messages']})" for s in lane["sessions"]) or "-",
        )  # fmt: skip
    if len(lanes) > _LANES_ON_SCREEN:
        table.add_row(f"… and {len(lanes) - _LANES_ON_SCREEN} more (--json has them all)")
    if not lanes:
        table.add_row("none")
    return table


def _rate(value: float | None, about: str) -> str:
    return "-" if not value else f"{about}{value:,.0f}" if value >= 10 else f"{about}{value:.1f}"


def duration(seconds: float | None) -> str:
    """Seconds for people: `0.4 s`, `12 min`, `3.2 h`; `-` for none."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
