"""Taking machines in: a joiner shows the token and its public key, and gets a user of its own.

The private key never leaves the joiner. The engine enforces the token: without it nobody reaches this service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from farmhand import errors
from farmhand.engine.connection import Connection
from farmhand.model.messages import JoinRequest
from farmhand.model.peers import check_peer
from farmhand.model.version import VERSION
from farmhand.security.accounts import Register, User, UserStore
from farmhand.security.permissions import Role

log = logging.getLogger("farmhand.steward")


class Shared(Protocol):
    """The register of all servers of a cluster."""

    async def change(self, change: Callable[[Register], Register]) -> None:
        """Store a changed register, and return when every server has it."""


class Enrolment:
    """Writes the list of users and makes the engine read it. One at a time."""

    def __init__(self, users: UserStore, ca_pem: str = "", shared: Shared | None = None) -> None:
        self._users = users
        self._ca_pem = ca_pem
        self._shared = shared  # the register of a cluster
        self._lock = asyncio.Lock()
        self._unread = True  # the engine may not have read the list: an earlier steward may have died before that

    async def join(self, request: JoinRequest, system: Connection | None) -> dict[str, Any]:
        """Enrol a key. Raises `VersionMismatch`, `NameTaken`, `BadOption`."""
        check_peer("the machine that wants to join", request.version, request.protocol, "the farm")
        if request.role not in (Role.NODE, Role.CLIENT):
            raise errors.BadOption(f"nobody joins as {request.role!r}; it is node or client")
        if system is None:
            raise errors.CredentialRefused("this farm's steward has no access to the engine's system account")
        async with self._lock:
            user = User(role=Role(request.role), name=request.name, public_key=request.public)
            if self._shared is not None:
                await self._shared.change(lambda register: register.with_users(user))
                log.info("enrolled %s %s on every server", request.role, request.name)
                return {"version": VERSION, "ca": self._ca_pem}
            self._unread |= await asyncio.to_thread(self._users.add, user)
            if self._unread:
                await reload_engine(system)
                self._unread = False
        log.info("enrolled %s %s", request.role, request.name)
        return {"version": VERSION, "ca": self._ca_pem}


async def reload_engine(system: Connection) -> None:
    """Make the engine read its configuration again. Raises `EngineError` when it refuses or does not answer."""
    subject = f"$SYS.REQ.SERVER.{system.server.get('server_id')}.RELOAD"
    try:
        answer = msgspec.json.decode((await system.request(subject)).data)
    except TimeoutError:
        raise errors.EngineError("the engine did not answer the request to read its users again") from None
    if problem := answer.get("error"):
        raise errors.EngineError(f"the engine refused to read its users again: {problem.get('description')}")
