"""`farmhand down`: ends the farm that runs on this machine."""

from __future__ import annotations

import json
import sys

import click

from farmhand.cli.main import json_option


@click.command("down")
@click.option("--now", is_flag=True, help="Do not wait for running tasks: they are handed back at once.")
@json_option
def command(now: bool, as_json: bool) -> None:
    """End the farm of this machine, and wait until it has ended.

    Nodes finish what they run for their grace and hand the rest back. What waits is kept for the next `farmhand up`.
    When no farm runs here that is no error.
    """
    from farmhand.home import lock, paths

    folder = paths.default_farm()
    holder = lock.holder(folder.lock)
    if holder is None:
        _say(as_json, "No farm of yours runs on this machine.", stopped=False, pid=None, killed=False)
        return
    killed = not _end(holder.pid, holder.ends_within, now)
    text = "did not end in time and was killed" if killed else "has ended"
    _say(as_json, f"The farm in {folder.root} {text}.", stopped=True, pid=holder.pid, killed=killed)


def _end(pid: int, within: float, now: bool) -> bool:
    """Ask the supervisor to end and wait for it. False when it had to be killed; its children notice and end too."""
    import psutil

    try:
        process = psutil.Process(pid)
        if sys.platform == "win32":  # there a process can be killed only, and its children are not told by the system
            family = [*process.children(recursive=True), process]
            for member in family:
                member.kill()
            psutil.wait_procs(family, within)
            return True
        process.terminate()
        if now:
            process.terminate()
        process.wait(within)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(within)
        return False
    return True


def _say(as_json: bool, text: str, **fields: object) -> None:
    click.echo(json.dumps(fields) if as_json else text)
