"""A farm of three servers to be broken: each a `farmhand up` of its own, in a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil
import pytest
from tests.chaos.farm import PATIENCE_S, FarmProcess, wait_until
from tests.integration.executor.conftest import MARK, processes_with

from farmhand import errors
from farmhand.cli.exits import Exit
from farmhand.engine import asking, streams, subjects
from farmhand.engine.broker_config import is_loopback
from farmhand.engine.connection import Connection
from farmhand.engine.options import Options
from farmhand.home import cluster
from farmhand.home.login import options
from farmhand.home.paths import FarmFolder
from farmhand.model.address import parse_address
from farmhand.security.permissions import Role

STREAMS = (*subjects.STREAMS, subjects.KEEP)


class Site(NamedTuple):
    """Where a server is: the address that it listens on, and what starts a command there."""

    host: str = "127.0.0.1"
    prefix: Sequence[str] = ()


class Server:
    """One of three. It may be killed with all its processes, and started again with what it had stored."""

    def __init__(self, home: Path, mark: str, slots: int = 1, site: Site = Site()) -> None:  # noqa: B008 - it is a constant
        self.home, self._slots, self._mark = home, slots, mark
        self.site = site
        self.process: FarmProcess | None = None

    @property
    def root(self) -> Path:
        return self.home / "farm"

    @property
    def name(self) -> str:
        own = cluster.member(self.root)
        assert own is not None
        return own.name

    @property
    def running(self) -> FarmProcess:
        assert self.process is not None
        return self.process

    def start(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(MARK, self._mark)  # it outlives the test that starts it
            self.process = FarmProcess(self.home, nodes=(self._slots,), prefix=self.site.prefix, listen=self.site.host)

    def kill(self) -> None:
        """kill -9 of everything at once, as when its machine loses power."""
        host = self.running.host
        family = [host, *host.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)
        self.close()

    def close(self) -> None:
        if self.process is not None:
            self.process.close()
            self.process = None

    def login(self, **changes: Any) -> Options:
        """As the farm's owner, at this server only."""
        login = self._login("owner", Role.CLIENT)
        login.follow, login.others, login.keep = False, (), None
        for name, value in changes.items():
            setattr(login, name, value)
        return login

    def ask_as_steward(self, question: Any) -> Any:
        """The same with every right in the farm's account."""
        login = self._login("steward", Role.STEWARD)
        login.keep, login.others = None, ()
        return self.ask(question, login)

    def _login(self, name: str, role: Role) -> Options:
        own = cluster.member(self.root)
        assert own is not None
        scheme = "nats" if is_loopback(self.site.host) else "tls"
        folder = FarmFolder(self.root)
        return options(parse_address(f"{scheme}://{own.server.address}"), folder.key(name), role, name, folder.ca)

    def start_to_its_end(self) -> str:
        """What a start says that cannot succeed."""
        environment = {**os.environ, "FARMHAND_HOME": str(self.home), MARK: self._mark}
        done = subprocess.run([sys.executable, "-m", "farmhand.cli", "up"], env=environment, capture_output=True, text=True,
                              timeout=PATIENCE_S, check=False)  # fmt: skip
        assert done.returncode == Exit.RUNNING
        return done.stderr

    def ask(self, question: Any, login: Options | None = None) -> Any:
        """The answer of `await question(connection)` at this server."""

        async def there() -> Any:
            connection = await Connection.open(login or self.login())
            try:
                return await question(connection)
            finally:
                await connection.close()

        return asyncio.run(there())

    def state(self) -> dict[str, Any]:
        """What its steward says of the cluster, acting or not."""
        found: list[dict[str, Any]] = []

        def ask() -> bool:
            state = self.ask(asking.cluster_state)
            found.extend([state] if state else ())
            return bool(found)

        wait_until(ask, "a steward says how the cluster is")
        return found[0]


class Cluster:
    """Three of them, in sync."""

    def __init__(self, folder: Path, sites: Sequence[Site] = (Site(), Site(), Site())) -> None:
        homes = [folder / f"machine {number}" for number in (1, 2, 3)]
        for home in homes:
            home.mkdir()
        self._mark = uuid.uuid4().hex
        self.servers = [Server(home, self._mark, site=site) for home, site in zip(homes, sites, strict=True)]
        try:
            first = self.servers[0]
            cluster.found(first.root, "127.0.0.1", first.site.host)
            first.start()
            for server in self.servers[1:]:
                wait_until(functools.partial(self._joined, server), "a further server was let in")
                server.start()
            self.wait_whole()
        except BaseException:
            self.close()
            raise

    def _joined(self, server: Server) -> bool:
        with contextlib.suppress(errors.EngineUnreachable):  # its steward may be starting
            cluster.join(server.root, self.up[0].running.file.server_line, "127.0.0.1", server.site.host)
            return True
        return False

    @property
    def up(self) -> list[Server]:
        return [server for server in self.servers if server.process is not None]

    def named(self, name: str) -> Server:
        return next(server for server in self.servers if server.name == name)

    def at(self, port: int) -> Server:
        """The server whose engine has that port."""
        return next(s for s in self.up if s.running.file.port == port)

    def leader(self, stream: str) -> Server:
        return self.named(self.up[0].ask(lambda c: streams.call(c, f"STREAM.INFO.{stream}"))["cluster"]["leader"])

    def acting(self) -> Server:
        """The server whose steward acts."""
        wait_until(lambda: self.up[0].state()["acting"], "a steward acts")
        return self.named(self.up[0].state()["acting"])

    def check_terms(self) -> None:
        """As their logs tell it, no two stewards have acted at the same time."""
        terms: list[tuple[str, str]] = []
        for server in self.servers:
            began = ""
            for line in server.running.log("steward.log").splitlines():
                stamp = " ".join(line.split(" ", 2)[:2])
                if line.endswith("this steward acts for the farm now"):
                    began = stamp
                elif began and line.endswith("this steward acts no longer"):
                    terms.append((began, stamp))
                    began = ""
                elif re.search(r": process \d+ begins$", line):
                    began = ""  # the one before it was killed: when is not told
            if began:
                terms.append((began, "for ever"))
        terms.sort()
        for (_, ended), (began, _) in itertools.pairwise(terms):
            assert ended <= began, f"two stewards acted at once: {terms}"

    def is_whole(self) -> bool:
        """Every server is there, every copy is complete, and a steward acts."""
        if len(self.up) < len(self.servers):
            return False

        async def look(connection: Connection) -> bool:
            state = await asking.cluster_state(connection)
            if state is None or not state["quorum"] or not all(server["up"] for server in state["servers"]):
                return False
            for stream in STREAMS:
                info = (await streams.call(connection, f"STREAM.INFO.{stream}", timeout=1.0))["cluster"]
                copies = info.get("replicas") or ()
                if len(copies) != 2 or any(copy.get("offline") or not copy["current"] for copy in copies):
                    return False
            status = await asking.ask_steward(connection, "status", timeout=1.0)
            return sum(node["ready"] for node in status["nodes"]) == len(self.servers)

        with contextlib.suppress(errors.EngineError, TimeoutError):
            return bool(self.up[0].ask(look))
        return False

    def wait_whole(self) -> None:
        wait_until(self.is_whole, "the cluster is whole")

    def mend(self) -> None:
        """Start what was killed."""
        for server in self.servers:
            if server.process is None:
                server.start()
        self.wait_whole()

    def replace(self, dead: Server) -> Server:
        """Have a new machine take the place of a dead server."""
        home = dead.home.with_name(f"{dead.home.name}, new")
        home.mkdir()
        new = Server(home, self._mark)
        wait_until(functools.partial(self._joined, new), "it was let in")
        self.servers[self.servers.index(dead)] = new
        new.start()
        return new

    def join_with(self, there: Server) -> None:
        """Try to be a fourth."""
        home = there.home.with_name("one too many")
        home.mkdir()
        cluster.join(home / "farm", there.running.file.server_line, "127.0.0.1", "127.0.0.1")

    def close(self) -> None:
        for server in self.servers:
            server.close()
        _, alive = psutil.wait_procs(processes_with(self._mark), timeout=PATIENCE_S / 6)
        for process in alive:
            process.kill()
        assert not alive, f"left behind: {[(p.pid, p.name()) for p in alive]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.close()
