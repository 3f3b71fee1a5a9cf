"""`farmhand join`: lets this machine work for a farm."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farmhand.cli.main import complete_farm, heed_verbose, log_options

if TYPE_CHECKING:
    from farmhand.home.enrol import Enrolled
    from farmhand.home.lock import Lock
    from farmhand.node.keeper import Keeper


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
@log_options
def command(line: str, name: str, verbose: bool, **given: Any) -> None:
    """Let this machine work for a farm. It needs the LINE that `farmhand up` printed there, once; then its ADDRESS.

    The NAME of a farm that `farmhand use` has saved will do as its address. What is not given here is as `farmhand config`
    shows it.

    The first join fails within 5 seconds if it cannot succeed. A machine that has joined keeps trying for ever. Ctrl-C
    leaves in good order, a second Ctrl-C without finishing what runs.
    """
    from farmhand.cli.up import checked_capabilities
    from farmhand.home import saved, settings
    from farmhand.node.keeper import Keeper, KeeperConfig
    from farmhand.node.monitor import usable_cores

    checked_capabilities(given["capabilities"])
    heed_verbose(given, verbose=verbose)
    values = {key: each.value for key, each in settings.settle("join", given).items()}
    identity, held = _identify(saved.address_of(line), name)
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
        _obey_signals(keeper)
        click.echo(f"Working for {identity.address} as {identity.name} with {count} slots. Log: {log}")
        sys.stdout.flush()
        keeper.run()
    click.echo("Left the farm.")


def _identify(text: str, wanted: str) -> tuple[Enrolled, Lock]:
    """Who this machine is in that farm, taken in if that is still to be done, and a lock that keeps it to this process.

    Raises: `BadAddress`, `FarmRunning`, `CredentialMissing`, and for a first join what `enrol` raises.
    """
    from farmhand import errors
    from farmhand.home import paths
    from farmhand.home.enrol import earlier, enrol
    from farmhand.model.address import parse_address
    from farmhand.security.joinline import parse_join_line
    from farmhand.security.permissions import Role, check_name

    if wanted:
        check_name(wanted)
    address = parse_address(text)
    has_token = bool(address.token)
    if has_token:
        address = parse_join_line(text).address
    known = earlier(address, Role.NODE, wanted)
    name, held = _free_name(paths.known(address), [each.name for each in known], wanted, paths.machine_name())
    known = [each for each in known if each.name == name]
    try:
        if has_token:
            return enrol(text, Role.NODE, name), held
        if known:
            return known[0], held
        raise errors.CredentialMissing(  # noqa: TRY301 (it ends like the others)
            f"this machine has not joined {address} yet; use the farm's join line the first time"
        )
    except errors.EngineUnreachable as error:
        if known:
            click.echo(f"farmhand: {error}; trying on", err=True)
            return known[0], held
        _forget(held, keep=bool(wanted))
        raise
    except BaseException:
        _forget(held, keep=bool(wanted or known))
        raise


def _forget(held: Lock, *, keep: bool) -> None:
    """After a join that failed: let go of the name, and leave nothing behind of one that was made for it."""
    if not keep:
        held.path.unlink(missing_ok=True)
        held.path.with_suffix(".nk").unlink(missing_ok=True)
    held.release()


def _free_name(folder: Path, known: list[str], wanted: str, machine: str) -> tuple[str, Lock]:
    """The wanted name, or an earlier one that no process of this machine uses now, or a new one; and its lock."""
    import secrets

    from farmhand import errors
    from farmhand.home.lock import Holder, Lock

    for name in [wanted] if wanted else [*known, f"{machine}-{secrets.token_hex(2)}"]:
        try:
            return name, Lock(folder / f"node-{name}.lock", Holder(os.getpid()))
        except errors.FarmRunning:
            if wanted:
                raise errors.FarmRunning(f"the node {name!r} of that farm runs on this machine already") from None
    raise AssertionError("a new name is free")


def _obey_signals(keeper: Keeper) -> None:
    asked = 0

    def end(_number: int, _frame: object) -> None:
        nonlocal asked
        asked += 1
        (keeper.stop if asked == 1 else keeper.hurry)()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)


def _start_logs(path: Path, level: str, *, verbose: bool) -> None:
    """This process's own log; what it warns of on the terminal too."""
    import logging

    from farmhand.home.logs import show_on_terminal, start_logging

    start_logging(path, level)
    show_on_terminal(logging.DEBUG if verbose else logging.WARNING)
