"""A farm of processes that a module's tests share, sessions with names of their own, and a look into the engine's streams."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from tests.chaos.farm import FarmProcess, wait_until
from tests.integration.executor.conftest import MARK, meeting, script, tally, wait_all_gone
from tests.integration.executor.meeting import PATIENCE_S

from farmhand import Farm, errors
from farmhand.client.session import Session
from farmhand.engine import streams, subjects

__all__ = ["meeting", "script", "tally"]

Open = Callable[..., Session]
_numbers = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmProcess]:
    """A farm of two slots, as `farmhand up` runs it."""
    mark, home = uuid.uuid4().hex, tmp_path_factory.mktemp("farm home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.setenv("FARMHAND_HOME", str(home))
        patch.delenv("FARMHAND_FARM", raising=False)
        with FarmProcess(home, nodes=(2,), websocket_port=-1) as running:
            with Farm(running.file.address) as farm:
                wait_until(lambda: farm.status()["nodes"], "the node is there")
            yield running
        wait_all_gone(mark)


@pytest.fixture
def name() -> str:
    """Of this test's session."""
    return f"session-{next(_numbers)}"


@pytest.fixture
def opened(running: FarmProcess, name: str) -> Iterator[Open]:
    """Opens or attaches to the test's session, or to another one; at the test's end all of them are closed and removed."""
    found: list[Session] = []

    def open_one(address: str = "", **options: object) -> Session:
        options = {"session": name, "output": False, **options}
        session = Farm(address or running.file.address, **options)
        assert isinstance(session, Session)
        found.append(session)
        return session

    yield open_one
    with Farm(running.file.address) as farm:
        for known in {session.name for session in found}:
            remove(farm, known)
    for session in found:
        session.shutdown(wait=True, cancel_futures=False) if session._driver.broken is None else session._abandon()


@pytest.fixture
def session(opened: Open) -> Session:
    return opened()


def remove(farm: Farm, name: str) -> None:
    """As `farmhand sessions rm`. One that is gone already is no error here."""
    with contextlib.suppress(errors.SessionUnknown):
        farm._driver.ask("session-rm", name.encode())


def left_in_engine(farm: Farm, session: str, name: str = "") -> list[str]:
    """Every subject of the engine's streams that has something of a session."""
    driver = farm._driver

    async def look() -> list[str]:
        found: list[str] = []
        for stream in (subjects.WORK, subjects.RESULT, subjects.BLOB, subjects.SESSION):
            found += await streams.subjects_in(driver.connection, stream)
        return [subject for subject in found if session in subject.split(".") or subject == subjects.about(name)]

    return asyncio.run_coroutine_threadsafe(look(), driver.loop).result(PATIENCE_S)


def environment_of(home: os.PathLike[str]) -> dict[str, str]:
    """That of another machine's user."""
    return {**os.environ, "FARMHAND_HOME": str(home)}
