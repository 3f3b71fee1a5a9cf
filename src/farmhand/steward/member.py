"""A steward that is one of three: keeps its own server's users in step, waits its turn, and acts while it has the lease.

It belongs to its own server and goes to no other: when that is down, so is it. The standing-by part answers what any server
can answer: which servers are up, and what a further server must know.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import json
import logging
import string
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from farmhand import errors
from farmhand.engine import asking, streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.options import Options
from farmhand.engine.wire import Msg
from farmhand.home import cluster
from farmhand.home.paths import FarmFolder
from farmhand.model import limits, messages
from farmhand.model.messages import Answer, ServerWelcome
from farmhand.model.version import VERSION
from farmhand.security.accounts import Register, Server, UserStore
from farmhand.steward.enrolment import Enrolment
from farmhand.steward.lease import Lease, Term
from farmhand.steward.service import Steward
from farmhand.steward.shared import SharedRegister

log = logging.getLogger("farmhand.steward")

_LOOK_S: Final = 1.0
_LOOKS: Final = 30
_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase

_RETRY_S: Final = 0.25  # until there are three servers for the first time, and after a failure


class Member:
    """See the head of this file. `run` returns when `stop` is called."""

    def __init__(self, farm: Options, system: Options, root: Path) -> None:
        own = cluster.member(root)
        assert own is not None
        self.own = own
        self._folder = FarmFolder(root)
        self._users = UserStore(root)
        self._farm, self._system_options = farm, system
        farm.follow = system.follow = False
        farm.others = system.others = ()
        farm.keep = system.keep = None
        self._connection: Connection
        self._system: Connection
        self._shared: SharedRegister | None = None
        self._lease: Lease | None = None
        self._steward: Steward | None = None
        self._removing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._answers: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """End `run`."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def run(self) -> None:
        """Serve until stopped. Raises when the engine refuses our credential."""
        watch = copy.copy(self._farm)
        watch.name = f"server:{self.own.name}"
        self._connection = await Connection.open(watch, retry_forever=True)
        self._system = await Connection.open(self._system_options, retry_forever=True)
        self._serve(subjects.api("cluster"), self._state)
        self._serve(subjects.SERVER_JOIN, self._welcome)
        working = self._loop.create_task(self._work())
        working.add_done_callback(self._on_worked)
        try:
            await self._stopped
        finally:
            if self._steward is not None:
                self._steward.stop()
                with contextlib.suppress(TimeoutError, errors.EngineError):
                    await asyncio.wait_for(asyncio.wait([working]), limits.LEASE_RENEW_S)
            working.cancel()
            await self._system.close()
            await self._connection.close()

    def _on_worked(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self._stopped.done():
            self._stopped.set_exception(error)  # the supervisor starts this process again

    async def _work(self) -> None:
        await self._patiently(lambda: streams.ensure_keep(self._connection, cluster.SERVERS))
        known_here = self.own.name in {server.name for server in self._users.load().servers}
        if known_here and await self._was_replaced():
            log.warning("this server was replaced while it was away")
            cluster.mark_replaced(self._folder.root, self.own)
            self.stop()
            return
        self._shared = shared = SharedRegister(self._connection, self._system, self._users)
        await self._patiently(shared.start)
        await self._patiently(lambda: shared.change(self._with_own))
        self._lease = lease = Lease(self.own.name, self._connection, self._system, lambda: copy.copy(self._farm))
        await self._patiently(lease.start)
        while not self._stopped.done():
            term = await lease.take()
            try:
                await self._act(term, shared)
            except (errors.EngineError, TimeoutError) as error:
                log.warning("this steward acts no longer: %s", error or "no answer")
            finally:
                await term.resign()

    async def _was_replaced(self) -> bool:
        """Whether the cluster has its servers without this one, which was one of them."""
        names: list[str] = []

        async def look() -> None:
            last = await streams.last_message(self._connection, subjects.KEEP, subjects.USERS)
            servers = msgspec.json.decode(last.data, type=Register).servers if last else ()
            names.extend(server.name for server in servers)

        await self._patiently(look)
        return len(names) >= cluster.SERVERS and self.own.name not in names

    async def _patiently(self, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await action()
                return
            except (errors.EngineError, TimeoutError) as error:
                log.debug("not yet: %s", error)
                await asyncio.sleep(_RETRY_S)

    def _with_own(self, register: Register) -> Register:
        """The register with this server and its nodes in it, and without the dead one whose place it has."""
        mine = cluster.own_nodes(self._folder.root, self.own)
        others = [s for s in register.servers if s.name not in (self.own.name, self.own.replaces)]
        servers = tuple(sorted((*others, self.own.server), key=lambda server: server.name))
        return msgspec.structs.replace(register.with_users(*mine, replace=True), servers=servers)

    async def _act(self, term: Term, shared: SharedRegister) -> None:
        enrolment = Enrolment(self._users, self._folder.ca.read_text(), shared)
        self._steward = Steward(self._farm, copy.copy(self._system_options), enrolment, term)
        self._steward.servers = self._state_now
        if self._stopped.done():
            return
        for events in (self._system.on_servers, shared.on_change):
            events.append(self._remove_replaced)
        self._remove_replaced()
        try:
            await self._steward.run()
        finally:
            for events in (self._system.on_servers, shared.on_change):
                events.remove(self._remove_replaced)
            if self._removing is not None:
                self._removing.cancel()
            self._steward = None

    # ---- servers that are not servers any more

    def _remove_replaced(self) -> None:
        if self._removing is None or self._removing.done():
            self._removing = self._loop.create_task(self._remove_from_quorum())

    async def _remove_from_quorum(self) -> None:
        """What a replaced server had is copied to the others, and its vote counts no more.

        Looks some times: the engine's quorum learns who is there a while after the servers do.
        """
        for _ in range(_LOOKS):
            own = {_peer_of(server.name) for server in self._register.servers}
            try:
                peers = await self._peers()
                if len(own) < cluster.SERVERS or own == set(peers):
                    return
                for peer in _strangers(peers, own):
                    log.warning("a server was replaced (peer %s): its copies are made anew elsewhere", peer)
                    body = msgspec.json.encode({"peer": "", "peer_id": peer})
                    await self._system.request("$JS.API.SERVER.REMOVE", body)
            except (errors.EngineError, TimeoutError) as error:
                log.debug("who has a vote is not known: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def _peers(self) -> dict[str, bool]:
        """The ids of the servers that have a vote in the engine's quorum, and whether each is there."""
        wanted = max(1, len(self._system.servers.living))
        found: dict[str, bool] = {}
        for msg in await asking.gather(self._system, "$SYS.REQ.SERVER.PING.JSZ", wanted):
            meta = json.loads(bytes(msg.data))["data"].get("meta_cluster") or {}
            if meta.get("replicas"):  # it leads: the others say nothing of each other
                found |= {peer["peer"]: not peer.get("offline") for peer in meta["replicas"]} | {meta["peer"]: True}
        return found

    # ---- questions that any server's steward answers

    # Each of them answers, and the first answer counts: one of them may be frozen.
    def _serve(self, subject: str, action: Callable[[Msg], Any]) -> None:
        async def respond(msg: Msg) -> None:
            try:
                answer = Answer(result=await asyncio.to_thread(action, msg))
            except errors.FarmhandError as error:
                answer = Answer(error=str(error), kind=type(error).__name__)
            self._connection.publish(msg.reply, messages.encode(answer))

        self._connection.subscribe(subject, lambda msg: self._spawn(respond(msg)) if msg.reply else None)

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    @property
    def _register(self) -> Register:
        return self._shared.register if self._shared else self._users.load()

    def _is_up(self, server: Server) -> bool:
        return server.name == self.own.name or server.address in self._connection.servers.living

    def _state_now(self) -> dict[str, Any]:
        """Which servers there are, and whether they are enough. Keys are stable: docs/reference/cli.md."""
        servers = self._register.servers or (self.own.server,)
        living = max(1, len(self._connection.servers.living))
        up = [server.name for server in servers if self._is_up(server)]
        complete = self._shared is not None and len(servers) >= cluster.SERVERS
        problem = ""
        if not complete:
            then = "the farm takes work when the third has" if living < cluster.SERVERS else "the last gets ready"
            problem = f"{living} of {cluster.SERVERS} servers have joined: {then}"
        elif 2 * len(up) <= cluster.SERVERS:
            down = ", ".join(server.name for server in servers if server.name not in up)
            problem = (
                f"{len(up)} of {cluster.SERVERS} servers is up: it accepts nothing until one more is; down: {down}"
            )
        listed = [{"name": s.name, "address": s.address, "up": s.name in up} for s in servers]
        acting = self._lease.holder if self._lease else ""
        return {"servers": listed, "joined": living, "quorum": not problem, "acting": acting, "problem": problem}

    def _state(self, _msg: Msg) -> dict[str, Any]:
        return self._state_now()

    def _welcome(self, msg: Msg) -> Any:
        """What a further server must know."""
        request = messages.read_server_request(msg.data)
        if request.protocol != messages.PROTOCOL:
            raise errors.VersionMismatch(
                f"the farm runs Farmhand {VERSION} (protocol {messages.PROTOCOL}), this server {request.version} "
                f"(protocol {request.protocol}); update the older one"
            )
        register, replaces = self._register, ""
        if not register.servers:
            register = msgspec.structs.replace(register, servers=(self.own.server,))
        if len(register.servers) >= cluster.SERVERS:
            dead = [server.name for server in register.servers if not self._is_up(server)]
            if not dead:
                names = ", ".join(server.name for server in register.servers)
                raise errors.ClusterComplete(f"the cluster has its {cluster.SERVERS} servers, and all are up: {names}")
            replaces = dead[0]
        folder = self._folder
        seeds = {name: folder.key(name).read_text().strip() for name in cluster.SHARED_KEYS}
        return ServerWelcome(msgspec.json.encode(register).decode(), self.own.secret, folder.ca.read_text(),
                             (folder.tls / "ca.key").read_text(), seeds, replaces)  # fmt: skip


def _peer_of(name: str) -> str:
    """The id by which the engine's quorum knows a server. It forgets the names of dead ones, and not their ids."""
    return "".join(_DIGITS[byte % len(_DIGITS)] for byte in hashlib.sha256(name.encode()).digest()[:8])


def _strangers(peers: dict[str, bool], own: set[str]) -> list[str]:
    """The ids of dead peers that are none of our servers; none when the engine makes ids in another way than we know."""
    if not all(peer in own for peer, up in peers.items() if up):
        return []
    return [peer for peer, up in peers.items() if not up and peer not in own]
