"""`farmhand config`: each setting, and where it came from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from farmhand.cli.main import cli, heed_verbose, json_option

if TYPE_CHECKING:
    from farmhand.home.settings import Settled


@click.command("config", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND [OPTIONS]...]")
@click.option("--file", "paths", is_flag=True, help="Show only which files settings are read from.")
@json_option
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...], paths: bool, as_json: bool) -> None:
    """Show each setting and where it came from; with a COMMAND those that it would have with these OPTIONS.

    From the weakest to the strongest: default, `farmhand use`, the user's file, the project's file, a variable, an option.
    """
    files = _files()
    if paths:
        _show_files(files, as_json)
        return
    from farmhand.home import settings
    from farmhand.model.settings import BY_NAME

    found = settings.settle(words[0], _options(ctx, words)) if words else settings.settle()
    if not found:
        raise click.UsageError(f"`farmhand {words[0]}` uses no settings")
    if as_json:
        rows = [
            {"name": name, "value": _open_value(each), "source": str(each.source), "place": each.place,
             "variable": BY_NAME[name].variable, "used_by": list(BY_NAME[name].used_by)}
            for name, each in found.items()
        ]  # fmt: skip
        click.echo(json.dumps({"settings": rows, "files": files}))
        return
    shown = {name: _text(_open_value(each)) for name, each in found.items()}
    wide, broad = max(map(len, shown)), max(map(len, shown.values()))
    for name, each in found.items():
        origin = f"{each.place} (farmhand use)" if each.source is settings.Source.SAVED else each.place
        click.echo(f"{name:{wide}}  {shown[name]:{broad}}  {origin or 'default'}")


def _options(ctx: click.Context, words: tuple[str, ...]) -> dict[str, Any]:
    """What the command would be given. It is not run, and its arguments may be left out."""
    command = cli.get_command(ctx, words[0])
    if command is None:
        raise click.UsageError(f"no such command: {words[0]}")
    given = command.make_context(words[0], list(words[1:]), resilient_parsing=True).params
    heed_verbose(given, verbose=given.get("verbose", False))
    return given


def _files() -> dict[str, str | None]:
    from farmhand.home import saved, settings

    project = settings.project_file()
    return {
        "user": str(settings.user_file()),
        "project": str(project) if project is not None else None,
        "farms": str(saved.file()),
    }


def _show_files(files: dict[str, str | None], as_json: bool) -> None:
    from pathlib import Path

    if as_json:
        click.echo(json.dumps(files))
        return
    for name, path in files.items():
        there = path is not None and Path(path).exists()
        click.echo(f"{name:7}  {path or 'none from here upwards'}{'' if there or path is None else ' (not there)'}")


def _open_value(settled: Settled) -> Any:
    """The value without the token of a join line."""
    value = settled.value
    if isinstance(value, str) and "@" in value:
        return value.partition("://")[0] + "://***@" + value.rpartition("@")[2]
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
