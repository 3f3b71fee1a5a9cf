"""Exit codes of the command `farmhand`: one table, stable, described in docs/reference/cli.md."""

from __future__ import annotations

import enum
from typing import Final

from farmhand import errors


class Exit(enum.IntEnum):
    """What an exit code means."""

    OK = 0
    FAILED = 1  # a check or a comparison failed, or something that has no code of its own
    USAGE = 2  # what was written on the command line cannot be right
    NOT_RUNNING = 3  # no farm of yours runs here
    RUNNING = 4  # it runs already
    UNREACHABLE = 5  # nobody answers there; a retry can help
    REFUSED = 6  # a credential is missing, refused or unsafe, or plain text is refused
    WRONG_PIN = 7  # this is not the farm that the join line names
    VERSION = 8  # a part is too old
    START_FAILED = 9  # the engine cannot be started here
    FULL = 10  # the engine's storage is full
    INTERRUPTED = 130  # Ctrl-C


# The first class that an error is an instance of decides, so subclasses stand before their bases.
_TABLE: Final[tuple[tuple[type[BaseException], Exit], ...]] = (
    (errors.BadAddress, Exit.USAGE),
    (errors.BadNeed, Exit.USAGE),
    (errors.BadOption, Exit.USAGE),
    (errors.FarmNotEmpty, Exit.USAGE),
    (errors.FarmNotRunning, Exit.NOT_RUNNING),
    (errors.FarmRunning, Exit.RUNNING),
    (errors.ServerTooOld, Exit.VERSION),
    (errors.EngineTooOld, Exit.VERSION),
    (errors.VersionMismatch, Exit.VERSION),
    (errors.NoNodeForPython, Exit.VERSION),
    (errors.ServerNotFound, Exit.START_FAILED),
    (errors.EngineStartFailed, Exit.START_FAILED),
    (errors.EngineFull, Exit.FULL),
    (errors.EngineUnreachable, Exit.UNREACHABLE),
    (errors.EngineLost, Exit.UNREACHABLE),
    (errors.NoResponder, Exit.UNREACHABLE),
    (errors.NoQuorum, Exit.UNREACHABLE),
    (errors.ClusterComplete, Exit.RUNNING),
    (errors.WrongPin, Exit.WRONG_PIN),
    (errors.SecurityError, Exit.REFUSED),
    (KeyboardInterrupt, Exit.INTERRUPTED),
)


def exit_of(error: BaseException) -> Exit:
    """The exit code that an error ends the command with."""
    return next((code for kind, code in _TABLE if isinstance(error, kind)), Exit.FAILED)
