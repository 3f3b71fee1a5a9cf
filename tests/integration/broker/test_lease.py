"""Of several stewards one acts: who was slower to connect does not take the lease from who was faster."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.broker.conftest import login

from farmhand.engine import streams, subjects
from farmhand.engine.broker import Broker
from farmhand.engine.connection import Connection
from farmhand.engine.options import Options
from farmhand.home.process import run_loop
from farmhand.security.permissions import Role
from farmhand.steward import lease as module
from farmhand.steward.lease import Lease


def test_a_lease_that_was_free_when_somebody_began_to_connect_is_not_taken_from_who_has_it_by_then(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def compete() -> None:
        watch, system = [await Connection.open(login(broker, role)) for role in (Role.STEWARD, Role.SYSTEM)]
        await streams.ensure_keep(watch, 1)
        fast, slow = (Lease(name, watch, system, lambda: login(broker, Role.STEWARD)) for name in ("fast", "slow"))
        for lease in (fast, slow):
            await lease.start()
        may_connect, opened = asyncio.Event(), Connection.open

        async def open_late(options: Options) -> Connection:
            await may_connect.wait()
            return await opened(options)

        with monkeypatch.context() as patch:
            patch.setattr(module.Connection, "open", open_late)
            trying = asyncio.create_task(slow._try())
            await asyncio.sleep(0)  # it has begun
        terms = [await fast._try()]
        while slow.holder != "fast":  # what is stored has come to it too
            await streams.last_message(watch, subjects.KEEP, subjects.LEASE)
        may_connect.set()
        terms.append(await trying)
        for term in terms:
            if term is not None:
                await term.resign()
        for lease in (fast, slow):
            lease.close()
        for connection in (watch, system):
            await connection.close()
        assert [term is not None for term in terms] == [True, False]

    run_loop(compete())
