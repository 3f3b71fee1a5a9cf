"""`farmhand doctor`: which part of a farm fails, and what to do."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import click

from farmhand.cli.exits import Exit
from farmhand.cli.main import farm_option, json_option

if TYPE_CHECKING:
    from farmhand.doctor import Check

_SIGNS = {"ok": ("ok", "green"), "failed": ("FAILED", "red"), "skipped": ("skipped", "bright_black")}


@click.command("doctor")
@farm_option
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
    from farmhand.home import settings

    settings.export_server(settings.settle("doctor"))
    patient = Patient(settings.chosen_farm(farm))
    if patient.given and _is_own_and_down(patient.given):
        patient.given = None  # then it is looked at as this machine's, and not as one elsewhere
    try:
        return await examine(all_steps(), patient, (lambda _: None) if quiet else _show)
    finally:
        await patient.close()


def _is_own_and_down(address: str) -> bool:
    from farmhand import errors
    from farmhand.client.remote import remote_login

    try:
        remote_login(address)
    except errors.FarmNotRunning:
        return True
    except errors.FarmhandError:
        pass  # a check will say it
    return False


def _show(check: Check) -> None:
    sign, colour = _SIGNS[check.state]
    click.echo(f"{click.style(f'{sign:>8}', fg=colour)}  {check.name}: {check.detail}")
    if check.advice:
        click.echo(f"          -> {check.advice}")
