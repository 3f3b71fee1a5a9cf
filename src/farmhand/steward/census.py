"""Who is connected, asked of the engine: which sessions are still there after an outage, and which connection to close.

The end of a client's connection is an event. A steward that was away when it happened, or whose engine ended with the
client, never hears of it, and the client's work would stay for ever. So the steward looks, once everybody had the time to
connect again: who has something stored, and who is connected. A session that has neither a connection nor a heartbeat is
over.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from farmhand.engine import streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.wire import Msg
from farmhand.model import limits

_PAGE: Final = 10_000  # connections in one answer
_ANSWERS_S: Final = 0.5  # each server of a cluster answers for itself; they do so in milliseconds


class _Client(msgspec.Struct):
    cid: int
    name: str = ""


class _Connections(msgspec.Struct):
    connections: list[_Client] = []
    total: int = 0


class _Server(msgspec.Struct):
    id: str


class _Answer(msgspec.Struct):
    server: _Server
    data: _Connections = msgspec.field(default_factory=_Connections)


Place = tuple[str, int]  # a connection, by its server's id and its number there


async def connected(system: Connection) -> dict[str, Place]:
    """All connections by their names. Raises `EngineError`, `TimeoutError`."""
    found: dict[str, Place] = {}
    offset = 0
    while True:
        answers = await _ask_servers(system, offset)
        for answer in answers:
            found.update((client.name, (answer.server.id, client.cid)) for client in answer.data.connections)
        offset += _PAGE
        if all(answer.data.total <= offset for answer in answers):
            return found


async def evict(system: Connection, name: str) -> None:
    """Have the engine close a connection of which nothing comes any more, if it is there.

    Until then the engine would go on giving work to it: to the requests that the node left open. Raises `EngineError`,
    `TimeoutError`.
    """
    place = (await connected(system)).get(name)
    if place is not None:
        await system.request(f"$SYS.REQ.SERVER.{place[0]}.KICK", msgspec.json.encode({"cid": place[1]}))


async def _ask_servers(system: Connection, offset: int) -> list[_Answer]:
    found: list[_Answer] = []

    def on_answer(msg: Msg) -> None:
        found.append(msgspec.json.decode(msg.data, type=_Answer))

    inbox = f"{system.options.inbox}.census"
    subscription = system.subscribe(inbox, on_answer)
    try:
        question = msgspec.json.encode({"limit": _PAGE, "offset": offset})
        system.publish("$SYS.REQ.SERVER.PING.CONNZ", question, reply=inbox)
        await asyncio.sleep(_ANSWERS_S)
    finally:
        subscription.close()
    if not found:
        raise TimeoutError("no server said who is connected")
    return found


async def stored_sessions(connection: Connection) -> set[str]:
    """The sessions that have work, reports or large values in the engine. Raises `EngineError`, `TimeoutError`."""
    work = await streams.subjects_in(connection, subjects.WORK)
    results = await streams.subjects_in(connection, subjects.RESULT)
    large = await streams.subjects_in(connection, subjects.BLOB)
    found = {name.split(".")[2] for name in work}
    found.update(name.split(".")[1] for name in (*results, *large))
    return found - {subjects.CODE}


SETTLE_S: Final = (
    1.5 * limits.RECONNECT_MAX_S + 0.5
)  # by then everybody who lives has connected again: the longest pause and jitter
