"""Killing processes with all that they started, wherever it went."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Final

SLOT_VARIABLE: Final = "FARMHAND_SLOT"  # marks a slot's processes, also those that it disowned
_GENERATIONS_MAX: Final = 20  # of processes that start others while they are killed

own: Final[set[int]] = set()  # children that this process started itself; any other child was adopted


def signal_name(number: int) -> str:
    """The name of a signal, for people."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def kill(pid: int) -> None:
    """SIGKILL, or what the platform has. No error when it is gone."""
    with contextlib.suppress(OSError):
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def kill_group(leader: int) -> None:
    """The same for a process group; elsewhere than on POSIX for its leader alone."""
    if os.name != "posix":
        kill(leader)
        return
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, found by a walk over the process table."""
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def adopted(variable: str = "", value: str = "") -> list[int]:
    """Processes that left their family and came to this one, with what is below them.

    With `variable` only those that have it in their environment, with `value` only those that have it so.
    """
    import psutil

    found: list[int] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, OSError):
            if child.pid in own:
                continue
            found_value = child.environ().get(variable) if variable else ""
            if found_value is not None and (not value or found_value == value):
                found += [child.pid, *descendants(child.pid)]
    return found


def adopt_orphans() -> None:
    """Make this process, a supervisor, the one that adopts what slots leave; in a slot it is no longer a part of that."""
    os.environ.pop(SLOT_VARIABLE, None)
    become_subreaper()


def kill_orphans() -> None:
    """Kill what slots of a dead agent left. For its supervisor, which adopts them."""
    if sys.platform != "linux":
        return
    for _ in range(_GENERATIONS_MAX):
        orphans = adopted(SLOT_VARIABLE)
        for pid in orphans:
            kill(pid)
        for pid in orphans:
            with contextlib.suppress(OSError):  # those below are adopted only when those above them are gone
                os.waitpid(pid, 0)
        if not orphans:
            return


def become_subreaper() -> None:
    """Linux: adopt what tasks leave behind, so that a daemon that a task forked twice is still ours to kill."""
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_child_subreaper = 36
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def reap_adopted() -> None:
    """Let go of adopted processes that have ended. A microsecond when there are none."""
    if not hasattr(os, "waitid"):
        return
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in own:
                return  # its own waiter takes it; then the next call sees what is behind it
            os.waitpid(ended.si_pid, os.WNOHANG)
