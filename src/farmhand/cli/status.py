"""`farmhand status`: nodes, sessions, queues and rates."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Final

import click

from farmhand.cli.contact import Contact
from farmhand.cli.main import farm_option, json_option
from farmhand.cli.status_report import Report, add_means, add_rates

_LOOK_S: Final = 1.0  # between two looks of --watch; nodes tell twice as often


@click.command("status")
@click.option("--watch", is_flag=True, help="Look again each second, until Ctrl-C.")
@farm_option
@click.option("--join-line", is_flag=True, help="Print only the join line of this machine's own farm.")
@click.option("--server-line", is_flag=True, help="Print only the line for a further server of this machine's cluster.")
@json_option
def command(watch: bool, farm: str | None, join_line: bool, server_line: bool, as_json: bool) -> None:
    """Show per node and session: slots, busy, runs, failures, cpu s, total s, bytes in and out; the queue per lane;
    rates; and needs that no node meets.
    """
    from farmhand.home.process import new_loop

    if join_line or server_line:
        _print_line("server_line" if server_line else "join_line", as_json=as_json)
        return
    with asyncio.Runner(loop_factory=new_loop) as runner:
        if not watch:
            runner.run(_once(farm, as_json))
            return
        with contextlib.suppress(KeyboardInterrupt):  # that is how one stops watching
            runner.run(_watch(farm, as_json))


def _print_line(which: str, *, as_json: bool) -> None:
    """A line of this machine's own farm. Raises `FarmNotRunning`, `BadOption`."""
    from farmhand import errors
    from farmhand.client.contact import running_here

    running = running_here()
    if running is None:
        raise errors.FarmNotRunning
    line = getattr(running, which)
    if not line:
        raise errors.BadOption(
            "this machine's farm has one server; `farmhand up --cluster` makes one that can have three"
        )
    click.echo(json.dumps({which: line}) if as_json else line)


async def _once(farm: str | None, as_json: bool) -> None:
    async with Contact(farm) as contact:
        report = add_means(await contact.ask("status"))
    if as_json:
        click.echo(json.dumps(report))
        return
    from rich.console import Console

    from farmhand.cli.status_tables import overview

    Console().print(overview(report))


async def _watch(farm: str | None, as_json: bool) -> None:
    """A look each second. It outlasts the steward and the engine."""
    from farmhand import errors

    loop = asyncio.get_running_loop()
    async with Contact(farm) as contact:
        before, at = await contact.ask("status"), loop.time()
        with _screen(as_json) as show:
            show(add_means(before))
            while True:
                await asyncio.sleep(_LOOK_S)
                try:
                    report, now = await contact.ask("status"), loop.time()
                except (errors.EngineError, TimeoutError) as error:
                    show({"error": str(error), "kind": type(error).__name__})
                    continue
                show(add_rates(add_means(report), before, now - at))
                before, at = report, now


@contextlib.contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[Report], None]]:
    """Shows one look after the other: a line of JSON each, or in place on a terminal."""
    if as_json:
        yield lambda report: click.echo(json.dumps(report))
        return
    from rich.live import Live
    from rich.text import Text

    from farmhand.cli.status_tables import overview

    with Live(auto_refresh=False) as live:
        yield lambda report: live.update(Text(report["error"]) if "error" in report else overview(report), refresh=True)
