"""A farm that was put back from a backup uses its sequences a second time: who has read further must notice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.broker.conftest import KEYS, NAMES

from farmhand.engine import streams, subjects
from farmhand.engine.broker import Broker, BrokerConfig
from farmhand.engine.connection import Connection
from farmhand.engine.options import Options
from farmhand.engine.ordered import OrderedReader
from farmhand.engine.stored import Publisher
from farmhand.home.process import run_loop
from farmhand.model.address import parse_address
from farmhand.security.accounts import User, UserStore
from farmhand.security.permissions import Role, inbox_prefix


def engine(folder: Path, name: str, port: int = -1) -> Broker:
    """An empty one."""
    users = UserStore(folder)
    folder.mkdir()
    users.add(User(role=Role.STEWARD, name=NAMES[Role.STEWARD], public_key=KEYS[Role.STEWARD].public))
    return Broker(
        BrokerConfig(folder=folder, store_dir=folder / "store", users_conf=users.conf_path, port=port, server_name=name)
    )


@pytest.mark.parametrize("anew", [True, False])
def test_a_reader_of_another_life_begins_anew(tmp_path: Path, anew: bool) -> None:
    seen: list[str] = []

    async def read(first: Broker) -> None:
        inbox = inbox_prefix(Role.STEWARD, NAMES[Role.STEWARD])
        connection = await Connection.open(
            Options(name="reader", address=parse_address(first.address), inbox=inbox, signer=KEYS[Role.STEWARD])
        )
        publisher = Publisher(connection)
        arrived = asyncio.Event()

        def take(_sequence: int, _subject: str, data: bytes | memoryview) -> None:
            seen.append(bytes(data).decode())
            arrived.set()

        async def store(*texts: str) -> None:
            await streams.ensure_streams(connection)
            for text in texts:
                await publisher.store(subjects.result("k1", "n1"), text.encode())

        async def until(text: str) -> None:
            while text not in seen:
                arrived.clear()
                await asyncio.wait_for(arrived.wait(), 20)

        await store("a", "b", "c")
        reader = OrderedReader(connection, subjects.RESULT, "res.>", take, anew=anew)
        await reader.start()
        await until("c")
        port = first.ports.nats if first.ports else 0
        await asyncio.to_thread(first.stop)
        with engine(tmp_path / "second", "farmhand-x", port):
            await connection.wait_connected()
            await store("d", "e", "f", "g")
            await until("g")
            reader.close()
            await connection.close()

    with engine(tmp_path / "first", "farmhand") as first:
        run_loop(read(first))
    assert seen == list("abcdefg" if anew else "abcg")
