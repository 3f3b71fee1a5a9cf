"""Asking a farm something without being a session: which farm is meant, and one question to its steward."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from farmhand import errors
from farmhand.client.remote import remote_login
from farmhand.engine import subjects
from farmhand.engine.connection import Connection, Options
from farmhand.home import lock, paths
from farmhand.model import limits, messages

VARIABLE = "FARMHAND_FARM"


class Meant(NamedTuple):
    """The farm that is meant. `own` is its folder when it is this user's own farm on this machine."""

    address: str
    connect: Callable[[], Options]
    own: paths.FarmFolder | None


def meant_farm(given: str | None = None) -> Meant:
    """The farm at `given`, else at `$FARMHAND_FARM`, else the one that this user runs on this machine.

    Raises: `FarmNotRunning`, `BadAddress`, `CredentialMissing`.
    """
    own = paths.default_farm()
    running = own.read() if lock.holder(own.lock) is not None else None
    text = given or os.environ.get(VARIABLE) or (running.address if running is not None else "")
    if not text:
        raise errors.FarmNotRunning
    connect, spool = remote_login(text)
    is_own = running is not None and (text == running.address or bool(spool))
    return Meant(running.address if running is not None and is_own else text, connect, own if is_own else None)


async def ask(connection: Connection, verb: str, body: bytes = b"", *, timeout: float = limits.REQUEST_S) -> Any:
    """One request to the steward. Raises the class that it names, `NoResponder`, `EngineLost`, `EngineUnreachable`."""
    try:
        answer = messages.read_answer((await connection.request(subjects.api(verb), body, timeout=timeout)).data)
    except TimeoutError:
        raise errors.EngineUnreachable(f"the engine answers, but its steward did not within {timeout:g} s") from None
    if answer.error:
        raise getattr(errors, answer.kind, errors.EngineError)(answer.error)
    return answer.result
