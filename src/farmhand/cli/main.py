"""The command's entry point: finds the subcommand, and turns every error of ours into one line and an exit code."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import click

PROGRAM: Final = "farmhand"
_FAILED: Final = 1  # `exits.Exit.FAILED`, whose module is not loaded unless something fails

# name: module, and what `farmhand --help` says, so that it need not import them all
_COMMANDS: Final = {
    "up": ("farmhand.cli.up", "Run a farm on this machine: an engine, a steward, a node."),
    "down": ("farmhand.cli.down", "End the farm of this machine."),
    "join": ("farmhand.cli.join", "Let this machine work for a farm."),
    "status": ("farmhand.cli.status", "Show nodes, sessions, queues and rates."),
    "sessions": ("farmhand.cli.sessions", "List, show, change and remove sessions that outlive their clients."),
    "failed": ("farmhand.cli.failed", "Show which tasks ended badly, and run them again."),
    "logs": ("farmhand.cli.logs", "Show what tasks printed, also when their node is gone."),
    "explain": ("farmhand.cli.explain", "Say why a task does not run: what nodes lack, what is ahead."),
    "queues": ("farmhand.cli.queues", "Show what waits in each lane, whose it is, and how old."),
    "backup": ("farmhand.cli.backup", "Save a farm's whole state in one file, while it runs."),
    "restore": ("farmhand.cli.restore", "Make the farm of a backup here."),
    "doctor": ("farmhand.cli.doctor", "Check every part of a farm with a real task, and say which part fails."),
    "use": ("farmhand.cli.use", "Give a farm a name, or say which farm is meant."),
    "config": ("farmhand.cli.config", "Show each setting and where it came from."),
    "demo": ("farmhand.cli.demo", "Analyse the standard library on a farm of two nodes, and render a picture."),
    "bench": ("farmhand.cli.bench", "Measure Farmhand beside ProcessPoolExecutor and others."),
    "completion": ("farmhand.cli.completion", "Print what makes a shell complete this command."),
}


@dataclass
class Invocation:
    """How this call answers. Set by the options that every command shares."""

    json: bool = False
    debug: bool = False


class _Commands(click.Group):
    """Subcommands that are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from farmhand.model.version import VERSION

        click.echo(f"{PROGRAM} {VERSION}")
        ctx.exit()


@click.group(
    cls=_Commands, name=PROGRAM, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.option("--debug", is_flag=True, help="Show where an error came from.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """The computers you already have, as one compute farm."""
    ctx.ensure_object(Invocation).debug = debug


F = TypeVar("F", bound=Callable[..., Any])


def log_options(function: F) -> F:
    """`--log-level` and `-v`, for a command that starts processes which keep logs."""
    level = click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="The least grave that the logs keep.  [info]",
    )
    verbose = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        help="Keep all in the logs, as --log-level debug, and show this process's own on the terminal.",
    )
    return level(verbose(function))


def heed_verbose(given: dict[str, Any], *, verbose: bool) -> None:
    """What `-v` means for the level that was not given."""
    if verbose:
        given["log_level"] = given["log_level"] or "debug"


def complete_farm(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The names of saved farms, for the shell."""
    from farmhand import errors
    from farmhand.home import saved

    try:
        return [name for name in sorted(saved.load().farms) if name.startswith(incomplete)]
    except errors.FarmhandError:
        return []


def farm_option(function: F) -> F:
    """`--farm`: a saved name, an address or a join line."""
    return click.option(
        "--farm",
        metavar="NAME|ADDRESS",
        shell_complete=complete_farm,
        help="Another farm than that of this machine.  [see `farmhand use` and $FARMHAND_FARM]",
    )(function)


def json_option(function: F) -> F:
    """`--json`: one document on standard output, errors too."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:
        ctx.ensure_object(Invocation).json = value
        return value

    return click.option("--json", "as_json", is_flag=True, is_eager=True, callback=remember, help="Answer in JSON.")(
        function
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process with its exit code."""
    invocation = Invocation()
    try:
        code = cli.main(arguments, PROGRAM, standalone_mode=False, obj=invocation)
    except click.ClickException as error:
        if invocation.json:
            _say_json(error.format_message(), type(error).__name__)
        else:
            error.show()
        sys.exit(error.exit_code)
    except BaseException as error:  # noqa: BLE001 (the last place: whatever it is ends in an exit code)
        sys.exit(_report(error, invocation))
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: BaseException, invocation: Invocation) -> int:
    """Say what went wrong, and return the exit code. What is no error of ours is a bug, and shows its traceback."""
    from farmhand import errors
    from farmhand.cli.exits import exit_of

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else _FAILED
    if isinstance(error, click.Abort | KeyboardInterrupt):
        error = KeyboardInterrupt("interrupted")
    elif isinstance(error, BrokenPipeError):  # `farmhand status | head`
        sys.stderr.close()
        return _FAILED
    ours = isinstance(error, errors.FarmhandError | KeyboardInterrupt | OSError)
    if invocation.debug or not ours:
        traceback.print_exception(error)
    if not ours:
        _log(error)
    if invocation.json:
        _say_json(str(error), type(error).__name__)
    elif ours:
        click.echo(f"{PROGRAM}: {error}", err=True)
    return int(exit_of(error))


def _log(error: BaseException) -> None:
    """A supervisor has a log; what is caught here would not come into it otherwise."""
    import logging

    log = logging.getLogger(PROGRAM)
    if log.handlers:
        log.critical("ended by an error that nobody foresaw", exc_info=error)


def _say_json(text: str, kind: str) -> None:
    click.echo(json.dumps({"error": text, "kind": kind}, ensure_ascii=False))
