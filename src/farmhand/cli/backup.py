"""`farmhand backup`: a farm's whole state in one file, while it runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click
import msgspec

from farmhand.cli.main import json_option


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
def command(file: Path, force: bool, as_json: bool) -> None:
    """Save the whole state of this machine's farm in FILE, while it runs: what is queued, results that nobody has read, large values,
    logs, who may connect, keys and settings.

    FILE has mode 0600. It holds the farm's keys: whoever can read it can be the farm.
    """
    from farmhand import errors
    from farmhand.cli.status_tables import size
    from farmhand.client.contact import running_here
    from farmhand.home import backup
    from farmhand.home.paths import default_farm
    from farmhand.home.process import new_loop

    running = running_here()
    if running is None:
        raise errors.FarmNotRunning
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            taken = runner.run(backup.take(default_farm(), running, file, replace=force))
    except FileExistsError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        click.echo(json.dumps({"file": str(file.absolute()), **msgspec.to_builtins(taken)}))
        return
    click.echo(f"The farm as it is now is in {file} ({size(taken.bytes)}).")
    for name, counts in taken.streams.items():
        click.echo(f"  {name.lower():<8} {counts['messages']:,} messages, {size(counts['bytes'])}")
    click.echo(f"  users    {taken.users}")
    click.echo("It holds the farm's keys: keep it where only you can read it.")
