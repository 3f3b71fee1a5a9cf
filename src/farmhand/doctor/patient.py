"""The farm that is looked at, and what the checks have learnt of it so far."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from farmhand import errors
from farmhand.client.contact import Meant, meant_farm
from farmhand.engine.connection import Connection
from farmhand.home import paths
from farmhand.model.address import Address, parse_address


@dataclass
class Patient:
    """`given`: the address that was asked for; without one it is this user's own farm."""

    given: str | None = None
    connection: Connection | None = None
    status: dict[str, Any] = field(default_factory=dict)
    _meant: Meant | None = None

    @property
    def meant(self) -> Meant:
        """Which farm it is. Raises `FarmNotRunning`, `BadAddress`, `CredentialMissing`."""
        if self._meant is None:
            self._meant = meant_farm(self.given)
        return self._meant

    @property
    def address(self) -> Address:
        """Where its engine is."""
        return parse_address(self.given or self.meant.address)

    @property
    def folder(self) -> paths.FarmFolder | None:
        """Its state, when it is this user's own farm, be it running or not."""
        if self.given is None:
            return paths.default_farm()
        with contextlib.suppress(errors.FarmhandError):  # without a credential it is certainly not our own
            return self.meant.own
        return None

    @property
    def running(self) -> paths.FarmFile | None:
        """What its supervisor says, when it is this user's own."""
        return self.folder.read() if self.folder is not None else None

    @property
    def open_connection(self) -> Connection:
        """The connection that the check `login` made."""
        assert self.connection is not None
        return self.connection

    async def close(self) -> None:
        """Let go of what the checks opened."""
        if self.connection is not None:
            await self.connection.close()


def process_state(pid: int) -> str:
    """What is wrong with a process, in words that follow "its process"; empty when nothing is."""
    import psutil

    try:
        status = psutil.Process(pid).status()
    except psutil.Error:
        return f"{pid} is gone"
    if status in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}:
        return f"{pid} is stopped (kill -CONT {pid} lets it go on)"
    return f"{pid} is dead" if status == psutil.STATUS_ZOMBIE else ""
