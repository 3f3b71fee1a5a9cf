"""`farmhand sessions`: the named sessions of a farm, which outlive their clients."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from farmhand.cli.contact import ask_once
from farmhand.cli.main import farm_option, json_option


@click.group("sessions", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List, show, change and remove named sessions: those of `Farm(session="NAME")`."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(ls)


@command.command("ls")
@farm_option
@json_option
def ls(farm: str | None = None, as_json: bool = False) -> None:
    """All sessions, and how far they are."""
    found = sorted(ask_once(farm, "sessions"), key=lambda state: state["name"])
    if as_json:
        click.echo(json.dumps([_more(state) for state in found]))
    elif not found:
        click.echo('No named session. Farm(ADDRESS, session="NAME") makes one.')
    else:
        _print(found)


@command.command("show")
@click.argument("name")
@farm_option
@json_option
def show(name: str, farm: str | None, as_json: bool) -> None:
    """One session, and which of its tasks failed."""
    from farmhand.cli.failed import print_failed
    from farmhand.model.messages import encode
    from farmhand.model.named import FailedRequest

    state = _more(_session(farm, name))
    failed = ask_once(farm, "failed", encode(FailedRequest((state["session"],))))
    if as_json:
        click.echo(json.dumps({**state, "failures": failed}))
        return
    for key in ("name", "session", "submitted", "done", "failed", "cancelled", "open", "running"):
        click.echo(f"{key:<12}{state[key]}")
    click.echo(
        f"{'stored':<12}{_size(state['stored'])} of {_size(state['stored_max'])}, results up to {_size(state['result_max'])}"
    )
    click.echo(f"{'made':<12}{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(state['created']))}")
    click.echo(
        f"{'kept':<12}{_span(state['keep'])} after the last thing that happened in it ({_span(state['idle'])} ago)"
    )
    print_failed(failed)


@command.command("set")
@click.argument("name")
@click.option("--keep", metavar="SPAN", help="How long it stays after the last thing that happened in it, such as 30d.")
@click.option("--stored-max", metavar="SIZE", help="What it may store, such as 50GiB.")
@click.option("--result-max", metavar="SIZE", help="What one result may have.")
@farm_option
@json_option
def change(name: str, keep: str | None, stored_max: str | None, result_max: str | None, farm: str | None,
           as_json: bool) -> None:  # fmt: skip
    """Change how a session is kept."""
    state = _more(_session(farm, name, keep=keep, stored_max=stored_max, result_max=result_max))
    click.echo(json.dumps(state) if as_json else f"{name} is kept for {_span(state['keep'])}, with at most "
               f"{_size(state['stored_max'])}, and {_size(state['result_max'])} for a result.")  # fmt: skip


@command.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@farm_option
@json_option
def rm(names: tuple[str, ...], farm: str | None, as_json: bool) -> None:
    """Stop sessions, and forget their tasks and outcomes."""
    for name in names:
        ask_once(farm, "session-rm", name.encode())
    click.echo(json.dumps({"removed": list(names)}) if as_json else f"Removed {', '.join(names)}.")


def _session(farm: str | None, name: str, **options: Any) -> dict[str, Any]:
    from farmhand.client.options import SessionOptions
    from farmhand.model.messages import encode

    request = SessionOptions(name, create=False, **options).request()
    found: dict[str, Any] = ask_once(farm, "session", encode(request))
    return found


def _more(state: dict[str, Any]) -> dict[str, Any]:
    done = state["done"] + state["failed"] + state["cancelled"]
    return {**state, "open": state["submitted"] - done, "idle": max(0.0, time.time() - state["touched"])}


def _print(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("session")
    for title in ("tasks", "done", "failed", "cancelled", "running", "waiting", "stored", "used", "kept"):
        table.add_column(title, justify="right")
    for state in map(_more, found):
        counts = (f"{state[key]:,}" for key in ("submitted", "done", "failed", "cancelled", "running"))
        waiting = f"{max(0, state['open'] - state['running']):,}"
        table.add_row(
            state["name"], *counts, waiting, _size(state["stored"]), f"{_span(state['idle'])} ago", _span(state["keep"])
        )
    Console().print(table)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def _span(seconds: float) -> str:
    from farmhand.model.span import say_span

    return say_span(seconds)
