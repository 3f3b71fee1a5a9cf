"""`farmhand restore`: makes the farm of a backup here."""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from farmhand.cli.main import json_option


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--force", is_flag=True, help="Move a farm that is here aside, into a folder of its own.")
@json_option
def command(file: Path, force: bool, as_json: bool) -> None:
    """Put the farm of the backup FILE into this machine's $FARMHAND_HOME, where none may be yet. `farmhand up` then runs it.

    FILE is read to its end before anything is changed. Keys of clients and nodes are good for the new farm as for the old one.
    """
    from farmhand.cli.status_tables import size
    from farmhand.home import backup
    from farmhand.home.paths import default_farm
    from farmhand.security.private_files import others_may_read

    folder = default_farm()
    exposed = others_may_read(file)
    restored = backup.put_back(file, folder, force=force)
    if as_json:
        click.echo(json.dumps({"folder": str(folder.root), "exposed": exposed, **msgspec.to_builtins(restored)}))
        return
    if exposed:
        click.secho(f"Warning: others can read {file}, and it holds the farm's keys.", err=True, fg="yellow")
    click.echo(f"The farm of {restored.created} is in {folder.root}.")
    for name, counts in restored.streams.items():
        click.echo(f"  {name.lower():<8} {counts['messages']:,} messages, {size(counts['bytes'])}")
    click.echo(f"  users    {restored.users}")
    if restored.aside:
        click.echo(f"What was there is in {restored.aside}.")
    if restored.settings_kept:
        click.echo("This home has settings of its own in config.toml; those of the backup were left out.")
    click.echo("`farmhand up` runs it.")
