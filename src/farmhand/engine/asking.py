"""Requests to services that may be starting: a restarted steward, or an engine that reads its users again."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from farmhand import errors
from farmhand.engine import subjects
from farmhand.engine.connection import Connection
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages

_PAUSE_FIRST_S: Final = 0.005  # a farm that starts is there in a moment, and its user waits
_PAUSE_MAX_S: Final = 0.05

Errors = tuple[type[errors.EngineError], ...]


async def request(connection: Connection, subject: str, payload: bytes = b"", *, timeout: float = limits.REQUEST_S,
                  again: Errors = (errors.NoResponder,)) -> Msg:  # fmt: skip
    """Ask, and ask again after an error of `again`. Raises `NoResponder`, `EngineLost`, `TimeoutError`."""
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + timeout, _PAUSE_FIRST_S
    while True:
        try:
            return await connection.request(subject, payload, timeout=max(0.0, deadline - loop.time()))
        except again:
            if loop.time() + pause > deadline:
                raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX_S)


async def ask_steward(
    connection: Connection, verb: str, body: bytes = b"", *, timeout: float = limits.REQUEST_S
) -> Any:
    """The steward's answer. Raises the class that it names, `EngineLost`, and `EngineUnreachable` when it does not answer."""
    try:
        again = (errors.NoResponder, errors.EngineLost)
        msg = await request(connection, subjects.api(verb), body, timeout=timeout, again=again)
    except (errors.NoResponder, TimeoutError):
        address = connection.options.address
        raise errors.EngineUnreachable(f"{address} runs, but its steward did not answer within {timeout:g} s") from None
    answer = messages.read_answer(msg.data)
    if answer.error:
        raise getattr(errors, answer.kind, errors.EngineError)(answer.error)
    return answer.result
