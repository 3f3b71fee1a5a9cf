"""`farmhand join`: lets this machine work for a farm."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from farmhand import errors
from farmhand.cli.main import complete_farm, heed_verbose, log_options


@click.command("join")
@click.argument("line", metavar="LINE|NAME|ADDRESS", shell_complete=complete_farm)
@click.option("--slots", type=click.IntRange(1), metavar="N", help="Tasks at a time.  [one per usable core]")
@click.option(
    "--name", default="", metavar="NAME", help="This node's name in the farm.  [kept from the last time, else made]"
)
@click.option(
    "--capability", "capabilities", multiple=True, metavar="K[=V]", help="What this machine can do; repeatable."
)
@click.option(
    "--grace", type=click.FloatRange(0.0), metavar="S", help="Seconds for running tasks when it leaves.  [10]"
)
@click.option(
    "--in-process", is_flag=True, help="One slot, as a thread of this process: where no process can be started."
)
@log_options
def command(line: str, name: str, verbose: bool, in_process: bool, **given: Any) -> None:
    """Let this machine work for a farm. It needs the LINE that `farmhand up` printed there, once; then its ADDRESS.

    The NAME of a farm that `farmhand use` has saved will do as its address. What is not given here is as `farmhand config`
    shows it.

    The first join fails within 5 seconds if it cannot succeed. A machine that has joined keeps trying for ever. Ctrl-C
    leaves in good order, a second Ctrl-C without finishing what runs.
    """
    from farmhand.cli.up import checked_capabilities
    from farmhand.home import saved, settings
    from farmhand.home.identity import identify

    checked_capabilities(given["capabilities"])
    heed_verbose(given, verbose=verbose)
    if in_process and given["slots"] not in (None, 1):
        raise errors.BadOption(f"--slots {given['slots']}: with --in-process a node has one slot, which is a thread")
    values = {key: each.value for key, each in settings.settle("join", given).items()}
    if in_process:
        _work_in_process(line, name, values, verbose=verbose)
        return
    from farmhand.node.keeper import Keeper, KeeperConfig
    from farmhand.node.monitor import usable_cores

    identity, held = identify(saved.address_of(line), name, _say)
    with held:
        count: int = values["slots"] or usable_cores()
        log = identity.key.with_suffix(".log")
        keeper = Keeper(
            KeeperConfig(
                identity=identity,
                slots=count,
                log=log,
                grace=values["grace"],
                capabilities=values["capabilities"],
                log_level=values["log_level"],
            )
        )
        _start_logs(log.with_name(f"keeper-{identity.name}.log"), values["log_level"], verbose=verbose)
        _obey_signals(keeper.stop, keeper.hurry)
        click.echo(f"Working for {identity.address} as {identity.name} with {count} slots. Log: {log}")
        sys.stdout.flush()
        keeper.run()
    click.echo("Left the farm.")


def _say(text: str) -> None:
    click.echo(f"farmhand: {text}", err=True)


def _work_in_process(line: str, name: str, values: dict[str, Any], *, verbose: bool) -> None:
    """The whole node in this process."""
    import io

    from farmhand.node.inprocess import join

    with join(line, name=name, capabilities=values["capabilities"], grace=values["grace"]) as node:
        log = node.identity.key.with_suffix(".log")
        _start_logs(log, values["log_level"], verbose=verbose, part="farmhand.node")
        with contextlib.suppress(OSError, ValueError):  # a device without signals
            _obey_signals(node.leave, node.leave)
        sys.stdin = io.StringIO()  # as of any slot: what a task wants to read is not there
        click.echo(f"Working for {node.identity.address} as {node.name} with 1 slot in this process. Log: {log}")
        sys.stdout.flush()
        node.wait()
    click.echo("Left the farm.")


def _obey_signals(stop: Callable[[], None], hurry: Callable[[], None]) -> None:
    asked = 0

    def end(_number: int, _frame: object) -> None:
        nonlocal asked
        asked += 1
        (stop if asked == 1 else hurry)()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)


def _start_logs(path: Path, level: str, *, verbose: bool, part: str = "farmhand.host") -> None:
    """This process's own log; what it warns of on the terminal too."""
    import logging

    from farmhand.home.logs import show_on_terminal, start_logging

    start_logging(path, level)
    show_on_terminal(logging.DEBUG if verbose else logging.WARNING, part)
