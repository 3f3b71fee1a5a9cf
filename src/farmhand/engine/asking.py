"""Requests to services that may be starting: a restarted steward, or an engine that reads its users again."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
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
                  again: Errors = (errors.NoResponder,), is_no_answer: Callable[[Msg], bool] = lambda _: False,
                  headers: dict[str, str] | None = None, mortal: bool = False) -> Msg:  # fmt: skip
    """Ask, and ask again after an error of `again` or an answer that `is_no_answer`, which in the end is returned all the same.

    In a cluster also after API_TRY_S of silence: the server that had the question may have died with it. `mortal`: who answers
    is a process that may do so too; then once.
    Raises `NoResponder`, `EngineLost`, `TimeoutError`.
    """
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + timeout, _PAUSE_FIRST_S
    while True:
        left = max(0.0, deadline - loop.time())
        patience = min(left, limits.API_TRY_S) if connection.servers.many or mortal else left
        mortal = False
        try:
            msg = await connection.request(subject, payload, timeout=patience, headers=headers)
            if not is_no_answer(msg) or loop.time() + pause > deadline:
                return msg
        except TimeoutError:
            if loop.time() + pause > deadline:
                raise
            continue
        except again:
            if loop.time() + pause > deadline:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, _PAUSE_MAX_S)


async def gather(connection: Connection, subject: str, wanted: int, payload: bytes = b"", *,
                 patience: float = limits.GATHER_S, timeout: float = limits.REQUEST_S) -> list[Msg]:  # fmt: skip
    """Ask all who listen, and return when `wanted` of them have answered, or with fewer after `patience` s.

    Raises `TimeoutError` when nobody has answered within `timeout` s, `EngineLost`.
    """
    found: list[Msg] = []
    enough = asyncio.Event()

    def on_answer(msg: Msg) -> None:
        if msg.status:
            return
        found.append(msg)
        if len(found) >= wanted:
            enough.set()

    inbox = f"{connection.options.inbox}.g{secrets.token_hex(6)}"
    subscription = connection.subscribe(inbox, on_answer)
    try:
        if not connection.publish(subject, payload, reply=inbox):
            raise errors.EngineLost("not connected")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), min(timeout, patience))
        if not found:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(enough.wait(), max(0.0, timeout - patience))
    finally:
        subscription.close()
    if not found:
        raise TimeoutError(f"nobody answers on {subject}")
    return found


async def ask_steward(
    connection: Connection, verb: str, body: bytes = b"", *, timeout: float = limits.REQUEST_S
) -> Any:
    """The steward's answer. Raises the class that it names, `EngineLost`, and `EngineUnreachable` when it does not answer."""
    return await ask(connection, subjects.api(verb), body, timeout=timeout)


async def ask(connection: Connection, subject: str, body: bytes = b"", *, timeout: float = limits.REQUEST_S) -> Any:
    """The same of any service of a steward."""
    try:
        again = (errors.NoResponder, errors.EngineLost)
        msg = await request(connection, subject, body, timeout=timeout, again=again, mortal=True)
    except (errors.NoResponder, TimeoutError):
        address = connection.options.address
        if problem := await _quorum_problem(connection):
            raise errors.NoQuorum(f"{address}: {problem}") from None
        raise errors.EngineUnreachable(f"{address} runs, but its steward did not answer within {timeout:g} s") from None
    answer = messages.read_answer(msg.data)
    if answer.error:
        raise getattr(errors, answer.kind, errors.EngineError)(answer.error)
    return answer.result


async def cluster_state(connection: Connection, *, timeout: float = limits.GATHER_S) -> dict[str, Any] | None:
    """What any server of a cluster says of it, acting steward or not; None of a farm of one server. Raises `EngineLost`."""
    try:
        msg = await connection.request(subjects.api("cluster"), timeout=timeout)
    except (errors.NoResponder, TimeoutError):
        return None
    state: dict[str, Any] | None = messages.read_answer(msg.data).result
    return state


async def _quorum_problem(connection: Connection) -> str:
    with contextlib.suppress(errors.EngineLost):
        state = await cluster_state(connection)
        if state is not None and not state["quorum"]:
            return str(state["problem"])
    return ""
