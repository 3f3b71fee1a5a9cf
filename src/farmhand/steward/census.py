"""Who is connected, asked of the engine: which sessions are still there after an outage, and which connection to close.

The end of a client's connection is an event. A steward that was away when it happened, or whose engine ended with the
client, never hears of it, and the client's work would stay for ever. So the steward looks, once everybody had the time to
connect again: who has something stored, and who is connected. A session that has neither a connection nor a heartbeat is
over.
"""

from __future__ import annotations

from typing import Final

import msgspec

from farmhand.engine import asking, streams, subjects
from farmhand.engine.connection import Connection
from farmhand.model import limits

_PAGE: Final = 10_000  # connections in one answer


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
    question = msgspec.json.encode({"limit": _PAGE, "offset": offset})
    wanted = max(1, len(system.servers.living))
    answers = await asking.gather(system, "$SYS.REQ.SERVER.PING.CONNZ", wanted, question)
    return [msgspec.json.decode(msg.data, type=_Answer) for msg in answers]


class _Event(msgspec.Struct):
    client: _EventClient
    server: _Server


class _EventClient(msgspec.Struct):
    id: int = 0
    name: str = ""


class Doors:
    """By which connection each name is here, so that the end of an older one is not taken for its own.

    Who moves from one server to another is connected to the second before the first says that the old connection ended.
    """

    def __init__(self) -> None:
        self._at: dict[str, Place] = {}

    def on_connect(self, data: bytes | memoryview) -> None:
        """The engine says that a connection was made."""
        event = msgspec.json.decode(data, type=_Event)
        if event.client.name:
            self._at[event.client.name] = (event.server.id, event.client.id)

    def on_disconnect(self, data: bytes | memoryview) -> str:
        """The engine says that one has closed. The name that is not here any more; empty when it is here by another one."""
        event = msgspec.json.decode(data, type=_Event)
        name = event.client.name
        if self._at.get(name, (event.server.id, event.client.id)) != (event.server.id, event.client.id):
            return ""
        self._at.pop(name, None)
        return name


async def stored_sessions(connection: Connection) -> set[str]:
    """The sessions that have work, reports or large values in the engine. Raises `EngineError`, `TimeoutError`."""
    work = await streams.subjects_in(connection, subjects.WORK)
    results = await streams.subjects_in(connection, subjects.RESULT)
    large = await streams.subjects_in(connection, subjects.BLOB)
    found = {name.split(".")[2] for name in work}
    found.update(name.split(".")[1] for name in (*results, *large))
    return found - {subjects.CODE, subjects.FARM}


SETTLE_S: Final = (
    1.5 * limits.RECONNECT_MAX_S + 0.5
)  # by then everybody who lives has connected again: the longest pause and jitter
