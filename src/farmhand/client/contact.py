"""Which farm is meant, when a command asks one something without being a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from farmhand import errors
from farmhand.client.remote import remote_login
from farmhand.engine.options import Options
from farmhand.home import lock, paths
from farmhand.home.settings import chosen_farm


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
    """The farm that `given`, a saved name or an address, or the settings mean, else the one that this user runs here.

    Raises: `FarmNotRunning`, `BadAddress`, `BadOption`, `CredentialMissing`.
    """
    own, running = paths.default_farm(), running_here()
    text = chosen_farm(given) or (running.address if running is not None else "")
    if not text:
        raise errors.FarmNotRunning
    connect, spool = remote_login(text)
    is_own = running is not None and (text == running.address or bool(spool))
    return Meant(running.address if running is not None and is_own else text, connect, own if is_own else None)
