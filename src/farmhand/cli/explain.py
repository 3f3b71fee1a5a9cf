"""`farmhand explain`: why a task does not run."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import click

from farmhand.cli.contact import Contact
from farmhand.cli.main import farm_option, json_option

_ON_SCREEN: Final = 20  # JSON has them all


@click.command("explain")
@click.argument("who", metavar="[TASK|SESSION]", default="")
@farm_option
@json_option
def command(who: str, farm: str | None, as_json: bool) -> None:
    """Say why a TASK or what waits of a SESSION does not run: which nodes lack what, what is ahead of it. Without anything: of
    all that the farm has.

    A TASK is SESSION/NUMBER, as labels, errors and `future.task_id` have it, SESSION/NAME, or a task's NAME in any session.
    """
    from farmhand.home.process import new_loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        report = runner.run(_ask(farm, who))
    if as_json:
        click.echo(json.dumps(report))
        return
    for line in _text(report):
        click.echo(line)


async def _ask(farm: str | None, who: str) -> dict[str, Any]:
    async with Contact(farm) as contact:
        return await contact.ask("explain", who.encode())


def _text(report: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    order = {"waiting": 0, "taken": 1, "running": 2}
    found = sorted(report["found"], key=lambda entry: order[entry["state"]])
    for entry in found[:_ON_SCREEN]:
        lines += [_headline(entry), *(f"  {reason}" for reason in entry["reasons"])]
    if len(found) > _ON_SCREEN:
        lines.append(f"… and {len(found) - _ON_SCREEN} more (--json has them all)")
    farm = report["farm"]
    if farm["full"]:
        lines.append(
            f"The engine is full ({', '.join(farm['full'])}): clients try again each second until there is room."
        )
    lines += report["notes"]
    if not lines:
        lines.append(f"Nothing waits. {farm['busy']} of {farm['slots']} slots on {farm['nodes']} nodes are busy.")
    return lines


def _headline(entry: dict[str, Any]) -> str:
    from farmhand.cli.queues import duration
    from farmhand.cli.status_tables import wanted

    if entry["number"]:
        who = f"{entry['name'] or 'task'} {entry['session']}/{entry['number']}"
    else:
        one = entry["tasks"] == 1
        span = f"number {entry['first_number']}" if one else f"numbers {entry['first_number']}-{entry['last_number']}"
        who = f"{entry['tasks']:,} task{'' if one else 's'} {entry['name']} of {entry['session']} ({span})"
    again = f", attempt {entry['attempt']}" if entry["attempt"] > 1 else ""
    return f"{who}: {entry['state']} for {duration(entry['seconds'])}{again}; needs {wanted(entry)}, priority {entry['priority']}"
