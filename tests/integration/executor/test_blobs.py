"""The chunks of large values: in order whatever the engine refused meanwhile, and read while they are still being written."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from tests.integration.executor.meeting import PATIENCE_S

from farmhand import Farm
from farmhand.client.driver import Driver
from farmhand.engine import blobs, streams, subjects
from farmhand.model import limits

DATA = os.urandom(5 * limits.CHUNK_BYTES + 7)


@pytest.fixture(scope="module")
def farm(nothing_left_behind: None) -> Iterator[Farm]:
    with Farm(max_workers=1, output=False, shared_memory=False) as farm:
        yield farm


@pytest.fixture
def driver(farm: Farm) -> Driver:
    return farm._driver


def run(driver: Driver, coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, driver.loop).result(PATIENCE_S)


async def write(driver: Driver, name: str, *, again: bool = False) -> None:
    writer = blobs.Writer(driver.publisher, driver.session_id, name, again=again)
    await writer.write(DATA)
    await writer.finish()


async def read(driver: Driver, name: str) -> bytes:
    return b"".join([bytes(part) async for part in blobs.read(driver.connection, driver.session_id, name, len(DATA))])


def test_a_chunk_that_was_refused_and_came_again_late(driver: Driver) -> None:
    async def scenario() -> bytes:
        await write(driver, "late")
        missing = subjects.blob(driver.session_id, "late", 2)
        found = await streams.message_at(driver.connection, subjects.BLOB, 1, missing)
        assert found is not None
        await streams.purge(driver.connection, subjects.BLOB, missing)
        await write(driver, "late", again=True)
        again = await streams.message_at(driver.connection, subjects.BLOB, 1, missing)
        last = await streams.message_at(
            driver.connection, subjects.BLOB, 1, subjects.blob(driver.session_id, "late", 5)
        )
        assert again is not None
        assert last is not None
        assert again.sequence > last.sequence > found.sequence
        return await read(driver, "late")

    assert run(driver, scenario()) == DATA


def test_reading_while_it_is_written(driver: Driver) -> None:
    async def scenario() -> bytes:
        writer = blobs.Writer(driver.publisher, driver.session_id, "slow")
        got: list[bytes] = []
        arrived = asyncio.Event()

        async def follow() -> None:
            async for part in blobs.read(driver.connection, driver.session_id, "slow", len(DATA)):
                got.append(bytes(part))
                arrived.set()

        reading = asyncio.create_task(follow())
        for start in range(0, len(DATA), limits.CHUNK_BYTES):
            arrived.clear()
            await writer.write(DATA[start : start + limits.CHUNK_BYTES])
            if start + limits.CHUNK_BYTES <= len(DATA):
                await arrived.wait()  # this chunk is here before the next is written
        await writer.finish()
        await reading
        return b"".join(got)

    assert run(driver, scenario()) == DATA
