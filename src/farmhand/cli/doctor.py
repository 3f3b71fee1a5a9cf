"""`farmhand doctor`: which part of a farm fails, and what to do."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import click

from farmhand.cli.exits import Exit
from farmhand.cli.main import json_option

if TYPE_CHECKING:
    from farmhand.doctor import Check

_SIGNS = {"ok": ("ok", "green"), "failed": ("FAILED", "red"), "skipped": ("skipped", "bright_black")}


@click.command("doctor")
@click.option("--farm", metavar="ADDRESS", help="Another farm than that of this machine.  [$FARMHAND_FARM]")
@json_option
@click.pass_context
def command(ctx: click.Context, farm: str | None, as_json: bool) -> None:
    """Check every part of a farm, from the server's program to a real task, and say which part fails.

    A part that stands on one that failed is skipped.
    """
    from farmhand.home.process import new_loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        checks = runner.run(_examine(farm, as_json))
    failed = [check.name for check in checks if check.state == "failed"]
    if as_json:
        import msgspec

        click.echo(json.dumps({"ok": not failed, "failed": failed, "checks": msgspec.to_builtins(checks)}))
    else:
        click.echo(f"Failed: {', '.join(failed)}." if failed else "Every part works.")
    ctx.exit(Exit.FAILED if failed else Exit.OK)


async def _examine(farm: str | None, quiet: bool) -> list[Check]:
    from farmhand.doctor import all_steps, examine
    from farmhand.doctor.patient import Patient

    patient = Patient(farm)
    try:
        return await examine(all_steps(), patient, (lambda _: None) if quiet else _show)
    finally:
        await patient.close()


def _show(check: Check) -> None:
    sign, colour = _SIGNS[check.state]
    click.echo(f"{click.style(f'{sign:>8}', fg=colour)}  {check.name}: {check.detail}")
    if check.advice:
        click.echo(f"          -> {check.advice}")
