"""A block that the engine has stored twice, because it had forgotten the first time, runs once and is there once."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.farm import FarmProcess, kill_some, wait_until
from tests.chaos.history import Effects
from tests.chaos.work import effect
from tests.integration.executor.meeting import PATIENCE_S
from tests.integration.named.conftest import Open

from farmhand.client.session import Session
from farmhand.engine import streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.stored import Publisher
from farmhand.home.login import options
from farmhand.model import limits
from farmhand.model.address import parse_address
from farmhand.security.permissions import Role

DICE = random.Random(1)
WINDOW_S = 0.1  # the shortest that the engine takes


def ask(running: FarmProcess, question: Callable[[Connection], Awaitable[Any]]) -> Any:
    """The answer of `await question(connection)`, with every right."""

    async def there() -> Any:
        key = running.home / "farm" / "keys" / "steward.nk"
        login = options(parse_address(running.file.address), key, Role.STEWARD, "steward")
        login.keep, login.others = None, ()
        connection = await Connection.open(login)
        try:
            return await question(connection)
        finally:
            await connection.close()

    return asyncio.run(there())


@pytest.fixture(autouse=True)
def forgetful(running: FarmProcess) -> Callable[[], None]:
    """An engine that knows what it has stored for a moment only, as after an outage of minutes."""

    async def forget(connection: Connection) -> None:
        config = (await streams.call(connection, f"STREAM.INFO.{subjects.SESSION}"))["config"]
        config["duplicate_window"] = int(WINDOW_S * 1e9)
        await streams.call(connection, f"STREAM.UPDATE.{subjects.SESSION}", config)

    ask(running, forget)
    return lambda: ask(running, forget)  # a steward that starts corrects it


def blocks_of(running: FarmProcess, session: Session) -> int:
    """How many are stored, copies among them."""
    subject = subjects.backlog(session.session, "*")
    found = ask(running, lambda connection: streams.messages_by_subject(connection, subjects.SESSION, subject))
    return sum(found.values())


class Deaf:
    """A client that hears no answers, and perhaps not of blocks either, and so stores its blocks again and again."""

    def __init__(self, session: Session, *, blocks: bool) -> None:
        self._driver, self._publisher = session._driver, session._driver.publisher
        self._blocks = blocks
        self._on_block = self._driver._block_reader._callback

    def _on_loop(self, action: Callable[[], object]) -> None:
        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._driver.loop).result(PATIENCE_S)

    def __enter__(self) -> None:
        def close() -> None:
            self._publisher._subscription.close()
            if self._blocks:
                self._driver._block_reader._callback = lambda *_: None

        self._on_loop(close)

    def __exit__(self, *_: object) -> None:
        def hear() -> None:
            publisher, reader = self._publisher, self._driver._block_reader
            publisher._subscription = publisher._connection.subscribe(publisher._prefix + "*", publisher._on_ack)
            if self._blocks:
                reader._callback, reader.last = self._on_block, 0
                reader._remake()

        self._on_loop(hear)


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    return Effects(tmp_path / "effects")


@pytest.mark.parametrize("blocks", [False, True], ids=["answers are lost", "it hears nothing"])
def test_a_block_that_is_stored_again_runs_once(
    opened: Open, running: FarmProcess, effects: Effects, blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blocks:
        monkeypatch.setattr(limits, "STORE_DEADLINE_S", 0.5)  # each try ends, and another one begins
    session, other = opened(), opened()
    futures = [session.submit(effect, 0, effects.folder)]
    assert futures[0].result(PATIENCE_S) == 0  # its code is stored
    with Deaf(session, blocks=blocks):
        futures += [session.submit(effect, i, effects.folder) for i in range(1, 200)]
        wait_until(lambda: len(effects.count()) == 200, "they run")
        there = blocks_of(running, session)
        wait_until(lambda: blocks_of(running, session) > there + 1, "it is stored again and again")
        assert blocks or session._driver.flush(PATIENCE_S)
    assert [future.result(PATIENCE_S) for future in futures] == list(range(200))
    check(session, 200, effects)
    check(other, 200, effects)
    more = [other.submit(effect, i, effects.folder) for i in range(200, 300)]
    assert [future.result(PATIENCE_S) for future in more] == list(range(200, 300))
    kill_some(running.pid, "steward", DICE)
    assert other.submit(effect, 300, effects.folder).result(PATIENCE_S) == 300
    check(opened(), 301, effects)


def test_a_copy_comes_when_the_first_one_is_over(
    opened: Open, running: FarmProcess, effects: Effects, forgetful: Callable[[], None]
) -> None:
    """And its caretaker was replaced meanwhile, by one that does not read what is over."""
    session = opened()
    for i in range(5):
        assert session.submit(effect, i, effects.folder).result(PATIENCE_S) == i
    wait_until(lambda: session.state.done == 5, "they are over")
    kill_some(running.pid, "steward", DICE)
    assert session.submit(effect, 5, effects.folder).result(PATIENCE_S) == 5
    forgetful()
    first = session._driver.ledger.blocks[0].sequence
    ask(running, lambda connection: store_again(connection, first))
    assert blocks_of(running, session) == 7
    assert session.submit(effect, 6, effects.folder).result(PATIENCE_S) == 6
    check(session, 7, effects)
    check(opened(), 7, effects)


async def store_again(connection: Connection, sequence: int) -> None:
    """As its client would, minutes later."""
    answer = await streams.call(connection, f"STREAM.MSG.GET.{subjects.SESSION}", {"seq": sequence})
    message = answer["message"]
    lines = base64.b64decode(message["hdrs"]).decode().split("\r\n")[1:]
    headers = dict(line.split(": ", 1) for line in lines if line)
    publisher = Publisher(connection)
    await publisher.store(message["subject"], base64.b64decode(message["data"]), headers=headers)
    publisher.close()


def check(session: Session, tasks: int, effects: Effects) -> None:
    wait_until(lambda: len(session) == tasks, "it knows each once")
    assert [future.result(PATIENCE_S) for future in session] == list(range(tasks))
    wait_until(lambda: (session.state.submitted, session.state.open) == (tasks, 0), "the caretaker has counted right")
    assert set(effects.count().values()) == {1}
