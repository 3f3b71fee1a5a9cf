"""`farmhand failed`: tasks that ended badly, and how they are run again."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from farmhand.cli.contact import ask_once
from farmhand.cli.main import farm_option, json_option


@click.command("failed")
@click.argument("which", nargs=-1, metavar="[SESSION|TASK|ID]...")
@click.option("--retry", is_flag=True, help="Run them again.")
@click.option("--forget", is_flag=True, help="Forget them.")
@farm_option
@json_option
def command(which: tuple[str, ...], retry: bool, forget: bool, farm: str | None, as_json: bool) -> None:
    """Show which tasks ended badly in the last 7 days: all, or those of sessions, names of tasks, or ids.

    With --retry they run again as they were submitted: a named session's in it, others in the session `retries`, where
    `farmhand sessions show retries` and Farm(...).attach("retries") find the outcomes.
    """
    from farmhand.model.messages import encode
    from farmhand.model.named import FailedRequest

    if retry and forget:
        raise click.UsageError("--retry runs them again and forgets them then; write one of the two")
    verb = "failed-retry" if retry else "failed-forget" if forget else "failed"
    found = ask_once(farm, verb, encode(FailedRequest(which)))
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found:
        click.echo("No task has ended badly." if not which else f"No task of {', '.join(which)} has ended badly.")
    elif retry:
        _say_retried(found)
    elif forget:
        click.echo(f"{len(found)} forgotten.")
    else:
        print_failed(found)


def _say_retried(found: list[dict[str, Any]]) -> None:
    for name in sorted({task["again"] for task in found if "again" in task}):
        count = sum(task.get("again") == name for task in found)
        click.echo(f"{count} run again in session {name}; see `farmhand sessions show {name}`.")
    for task in found:
        if task["lacking"]:
            click.echo(f"{task['id']} ({task['task']} of {task['session']}) cannot run again: {task['lacking']}")


def print_failed(found: list[dict[str, Any]]) -> None:
    """The table of tasks that ended badly."""
    if not found:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("id", justify="right")
    for title in ("session", "task", "when", "node", "what"):
        table.add_column(title)
    for task in found:
        when = time.strftime("%m-%d %H:%M:%S", time.localtime(task["at"]))
        what = f"{task['kind']}: {task['text']}" + (f" (attempt {task['attempts']})" if task["attempts"] > 1 else "")
        table.add_row(str(task["id"]), *map(Text, (task["session"], task["task"], when, task["node"], what)))
    Console().print(table)
