"""`farmhand down`: ends the farm that runs on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from farmhand.cli.main import json_option

if TYPE_CHECKING:
    from farmhand.home.lock import Holder

_LOOK_S: Final = 0.01  # between two looks whether it has ended


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
    while holder is not None and not holder.pid:  # it has the lock and is about to say who it is
        time.sleep(_LOOK_S)
        holder = lock.holder(folder.lock)
    if holder is None:
        _say(as_json, "No farm of yours runs on this machine.", stopped=False, pid=None, killed=False)
        return
    killed = not _end(folder.lock, holder, now)
    text = "did not end in time and was killed" if killed else "has ended"
    _say(as_json, f"The farm in {folder.root} {text}.", stopped=True, pid=holder.pid, killed=killed)


def _end(path: Path, holder: Holder, now: bool) -> bool:
    """Ask the supervisor to end and wait for it. False when it had to be killed; its children notice and end too.

    What is waited for is its lock: it lets go of it last, and its process may linger on as a zombie for long.
    """
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":  # there a process can only be killed; its children see the end of their input
            _kill_family(holder.pid)
        else:
            os.kill(holder.pid, signal.SIGTERM)
            if now:  # another signal than the first: two of a kind may arrive as one
                os.kill(holder.pid, signal.SIGINT)
    if _wait_free(path, holder.ends_within):
        return True
    with contextlib.suppress(ProcessLookupError):
        _kill_family(holder.pid)
    _wait_free(path, holder.ends_within)
    return False


def _wait_free(path: Path, seconds: float) -> bool:
    from farmhand.home import lock

    deadline = time.monotonic() + seconds
    while lock.holder(path) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _kill_family(pid: int) -> None:
    """The supervisor and the engine at once, everything else by the end of its input."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def _say(as_json: bool, text: str, **fields: object) -> None:
    click.echo(json.dumps(fields) if as_json else text)
