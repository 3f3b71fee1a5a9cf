"""Which farm is meant, when a command asks one something without being a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from farmhand import errors
from farmhand.client.remote import remote_login
from farmhand.engine.connection import Options
from farmhand.home import lock, paths

VARIABLE = "FARMHAND_FARM"


class Meant(NamedTuple):
    """The farm that is meant. `own` is its folder when it is this user's own farm on this machine."""

    address: str
    connect: Callable[[], Options]
    own: paths.FarmFolder | None


def running_here() -> paths.FarmFile | None:
    """This user's own farm on this machine, if it runs."""
    own = paths.default_farm()
    return own.read() if lock.holder(own.lock) is not None else None


def meant_farm(given: str | None = None) -> Meant:
    """The farm at `given`, else at `$FARMHAND_FARM`, else the one that this user runs on this machine.

    Raises: `FarmNotRunning`, `BadAddress`, `CredentialMissing`.
    """
    own, running = paths.default_farm(), running_here()
    text = given or os.environ.get(VARIABLE) or (running.address if running is not None else "")
    if not text:
        raise errors.FarmNotRunning
    connect, spool = remote_login(text)
    is_own = running is not None and (text == running.address or bool(spool))
    return Meant(running.address if running is not None and is_own else text, connect, own if is_own else None)
