"""A connection that looks at a farm and does nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from farmhand.engine.connection import Connection


class Contact:
    """An open connection to the farm that `--farm` or the settings mean. Raises as `meant_farm` and `Connection.open`."""

    def __init__(self, farm: str | None) -> None:
        from farmhand.client.contact import meant_farm

        self._meant = meant_farm(farm)
        self.connection: Connection

    async def __aenter__(self) -> Self:
        from farmhand.engine.connection import Connection

        self.connection = await Connection.open(self._meant.connect())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    async def answer(self, verb: str, body: bytes = b"") -> Any:
        """What the steward answers. Raises as `ask_steward`."""
        from farmhand.engine.asking import ask_steward

        return await ask_steward(self.connection, verb, body)

    async def ask(self, verb: str, body: bytes = b"") -> dict[str, Any]:
        """What the steward answers, and where that is."""
        report: dict[str, Any] = await self.answer(verb, body)
        return {"address": str(self.connection.options.address), **report}


def ask_once(farm: str | None, verb: str, body: bytes = b"") -> Any:
    """The answer to one request, for a command that has no event loop."""
    from farmhand.home.process import new_loop

    async def ask() -> Any:
        async with Contact(farm) as contact:
            return await contact.answer(verb, body)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(ask())
