"""`farmhand use`: names for farms, and which of them is meant when none is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from farmhand.cli.main import complete_farm, json_option

if TYPE_CHECKING:
    from farmhand.home import saved


@click.command("use")
@click.argument("name", required=False, shell_complete=complete_farm)
@click.argument("line", metavar="[ADDRESS|LINE]", required=False)
@click.option("--list", "listing", is_flag=True, help="Show the saved farms; so does this command alone.")
@click.option("--remove", is_flag=True, help="Forget this name. The credential for that farm is kept.")
@click.option("--no-default", is_flag=True, help="Mean no saved farm any more when none is named.")
@json_option
def command(name: str | None, line: str | None, listing: bool, remove: bool, no_default: bool, as_json: bool) -> None:
    """Give a farm a NAME, which then stands for its address everywhere; with a NAME alone, make it the default farm.

    \b
    farmhand use lab 'LINE'      enrol with the join line, and save the address as lab
    farmhand use lab ADDRESS     the same for a farm that this machine has joined
    farmhand use lab             Farm() and every command mean lab when no farm is named
    """  # noqa: D301 (click keeps the lines behind this sign as they are)
    from farmhand.home import saved

    if sum((listing, no_default, remove, line is not None)) > 1 or ((remove or line) and not name):
        raise click.UsageError("write NAME ADDRESS, NAME, --remove NAME, --no-default or --list")
    if name and (listing or no_default):
        raise click.UsageError("--list and --no-default take no NAME")
    if no_default:
        found, said = saved.change(default=""), "No saved farm is meant by default."
    elif not name:
        found, said = saved.load(), ""
    elif remove:
        found, said = saved.change(remove=name), f"{name} is forgotten."
    elif line is None:
        found, said = saved.change(default=name), f"{name} is the default farm."
    else:
        found, said = _save(name, line)
    if as_json:
        click.echo(json.dumps({"default": found.default, "farms": found.farms}))
        return
    click.echo(said or _listing(found))
    if name and not remove and line is None:
        _warn_when_overruled()


def _save(name: str, line: str) -> tuple[saved.Saved, str]:
    """Enrol if that is still to be done, so that what is saved can be used, and is no secret."""
    from farmhand.client.remote import remote_login
    from farmhand.home import saved
    from farmhand.model.address import parse_address

    saved.check_name(name)
    if saved.is_name(line):
        line = saved.address_of(line)
    address = str(parse_address(line))
    connect, _ = remote_login(line)
    connect()
    found = saved.change(save=(name, address))
    return found, f"{name} is {address}. `farmhand use {name}` makes it the default farm."


def _listing(found: saved.Saved) -> str:
    if not found.farms:
        return "No farm is saved. Save one with `farmhand use NAME ADDRESS`."
    width = max(map(len, found.farms))
    return "\n".join(
        f"{'*' if name == found.default else ' '} {name:{width}}  {found.farms[name]}" for name in sorted(found.farms)
    )


def _warn_when_overruled() -> None:
    from farmhand.home import settings

    settled = settings.settle("Farm")["farm"]
    if settled.source is not settings.Source.SAVED:
        click.secho(f"Warning: here {settled.place} says otherwise, and goes first.", err=True, fg="yellow")
