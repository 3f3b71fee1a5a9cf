"""The supervisor of one machine's farm processes: the engine, the steward and the nodes.

It starts them, restarts what dies, and ends them all when it is told to: by a signal, or, for an embedded farm, by the end of
its standard input, which the client's death closes too. It runs no loop and holds no connection, so there is little in it
that can fail. One thread per child waits for its end and puts that on a queue; the main thread decides.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from farmhand import errors
from farmhand.engine.broker import ANY_PORT, STOP_S, Broker, BrokerConfig
from farmhand.engine.broker_config import ClusterConfig, is_loopback
from farmhand.home import cluster, lock, paths
from farmhand.home.logs import start_logging
from farmhand.home.pipe import at_end_of_input, first_line
from farmhand.model import limits
from farmhand.model.address import Address, parse_address
from farmhand.model.version import VERSION
from farmhand.node import environment, monitor, processes
from farmhand.node.diskwatch import DiskWatch
from farmhand.security.accounts import User, UserStore, new_token
from farmhand.security.nkeys import KeyPair, store_seed
from farmhand.security.permissions import Role

if TYPE_CHECKING:
    from farmhand.security.authority import ServerFiles

log = logging.getLogger("farmhand.host")

RESTART_FIRST_S: Final = 0.05
RESTART_MAX_S: Final = 5.0
ENGINE_RETRY_S: Final = 1.0  # after a start of the engine that failed
HEAL_S: Final = 2.0  # an engine that must be restarted ends within it, or it is killed, which loses nothing
QUICK_S: Final = 2.0  # for what has nothing to finish
STEADY_S: Final = 10.0  # a child that lived so long starts its next back-off from the beginning
SPOOL_PREFIX: Final = "farmhand-"  # then the supervisor's process id, so that a killed one's folder can be told
OWNER: Final = "owner"  # the client credential of the user who runs the farm


class HostConfig(msgspec.Struct, kw_only=True):
    """What to run. `nodes` lists the slots of each node on this machine."""

    folder: Path
    nodes: tuple[int, ...]
    listen: str = "127.0.0.1"
    port: int = ANY_PORT
    websocket_port: int | None = None
    insecure_plaintext: bool = False
    durable: bool = True  # False: keys and settings need not survive a power cut (embedded farms)
    power: bool = False  # every stored message waits for the disk
    max_file_store: int | None = None
    grace: float = limits.GRACE_S
    capabilities: tuple[str, ...] = ()
    quick_end: bool = False  # an embedded farm's work is done when it ends: nothing to wait for
    cache: Path | None = None
    log_level: str = "info"  # of all logs but the engine's


def next_event(events: queue.SimpleQueue[tuple[str, str]]) -> tuple[str, str]:
    """Wait for an event, waking up now and then.

    The kernel may hand a signal to any thread, and then nothing interrupts the main thread, which alone runs handlers.
    """
    while True:
        with contextlib.suppress(queue.Empty):
            return events.get(timeout=limits.SIGNAL_S)


class Child:
    """A process that is kept alive."""

    def __init__(self, name: str, command: list[str], events: queue.SimpleQueue[tuple[str, str]]) -> None:
        self.name = name
        self._command = command
        self._events = events
        self.process: subprocess.Popen[bytes] | None = None
        self.wait_s = RESTART_FIRST_S
        self.started_at = 0.0

    @property
    def pid(self) -> int:
        """Of its last life; 0 before the first."""
        return self.process.pid if self.process else 0

    def start(self) -> None:
        """Spawn it; its end comes as an event."""
        self.started_at = time.monotonic()
        self.hang_up()
        # The child watches its input: when we die without a word, the pipe closes and the child ends too.
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, env=environment.for_child(), start_new_session=True
        )
        process = self.process
        processes.own.add(process.pid)

        def wait() -> None:
            process.wait()
            processes.kill_orphans()  # an agent that was killed has not done it
            self._events.put(("ended", self.name))

        threading.Thread(target=wait, name=f"wait-{self.name}", daemon=True).start()

    def pause(self) -> float:
        """Seconds to wait before the next start."""
        if time.monotonic() - self.started_at > STEADY_S:
            self.wait_s = RESTART_FIRST_S
        wait, self.wait_s = self.wait_s, min(self.wait_s * 2, RESTART_MAX_S)
        return wait

    def tell(self, address: str) -> None:
        """Say where the engine is. Its input stays open: the end of it tells the child that we are gone."""
        assert self.process is not None
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(address.encode() + b"\n")
            self.process.stdin.flush()

    def hang_up(self) -> None:
        """Close its input: it kills what it started and leaves at once."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def signal(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False when it still runs after `timeout` seconds."""
        if self.process is None:
            return True
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True


class Host:
    """See the head of this file. `run(on_ready)` blocks until the farm has ended."""

    def __init__(self, config: HostConfig) -> None:
        self.config = config
        self.folder = paths.FarmFolder(config.folder)
        self.events: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._children: dict[str, Child] = {}
        self._stopping = False
        self._pin = ""  # of the farm's CA, when it has one
        self.local = is_loopback(config.listen)
        self._spool = paths.shared_memory() / f"{SPOOL_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        self._broker: Broker
        self._users: UserStore
        self.member = cluster.member(config.folder)  # its place in a cluster
        self._content: paths.FarmFile

    # ---- starting

    def run(self, on_ready: Callable[[paths.FarmFile], None]) -> None:
        """Start everything, say `on_ready(farm_file)`, keep it running until `stop` or an end of input.

        Raises: `FarmRunning` when another supervisor has the folder; what the engine's start raises. Nothing is left
        running then.
        """
        self.folder.make()
        cluster.check_place(self.folder.root, self.member)
        with lock.Lock(self.folder.lock, lock.Holder(os.getpid(), self.ends_within)):
            self._run_locked(on_ready)

    def _run_locked(self, on_ready: Callable[[paths.FarmFile], None]) -> None:
        processes.adopt_orphans()
        paths.remove_stale(self._spool.parent, SPOOL_PREFIX)
        self._spool.mkdir(mode=0o700)
        try:
            self._prepare_users()
            self._broker = Broker(self._broker_config(), on_exit=lambda _code: self.events.put(("ended", "engine")))
            self._start_children()  # they load their modules while the engine starts
            self._broker.start()
            for child in self._children.values():
                child.tell(self._broker.address)
            self._content = self._describe()
            self.folder.write(self._content)
            self.folder.remember_port(self._content.port)
            on_ready(self._content)
            watch = self._watch_disk()
            try:
                self._supervise()
            finally:
                watch.stop()
        finally:
            self._end_all()
            self.folder.file.unlink(missing_ok=True)
            shutil.rmtree(self._spool, ignore_errors=True)

    def stop(self) -> None:
        """End the farm. Safe from a signal handler and from any thread."""
        self.events.put(("stop", ""))

    def hurry(self) -> None:
        """End it without the grace: what runs is handed back at once. Safe from a signal handler."""
        self.stop()
        for name, child in self._children.items():
            if name != "steward":
                child.signal(signal.SIGTERM)  # a node that is told twice ends its grace

    @property
    def servers(self) -> set[str]:
        """Of a cluster: the names of all that this machine knows of, itself among them."""
        own = {self.member.name} if self.member is not None else set()
        return own | {server.name for server in self._users.load().servers}

    @property
    def ends_within(self) -> float:
        """Seconds that an end in good order takes at most: nodes with their grace, steward, engine."""
        return self.config.grace + limits.REQUEST_S + 2.0 + 5.0 * len(self.config.nodes) + 7.0 + STOP_S

    def _prepare_users(self) -> None:
        """Keys for our own parts, made at the first start."""
        self._users = UserStore(self.folder.root, durable=self.config.durable)
        if self.member is not None:
            if added := cluster.add_nodes(self.folder.root, self.member, len(self.config.nodes)):
                self._users.add(*added, replace=True)
            if not self.folder.key("steward").exists():  # the first server, and its first start
                self._add_own_parts(cluster.SHARED_KEYS)
            self._users.write_conf()
            return
        self._add_own_parts((*cluster.SHARED_KEYS, *(self._node_name(i) for i in range(len(self.config.nodes)))))
        if not self._users.load().join_token:
            self._users.set_join_token(new_token())
        self._users.write_conf()

    def _add_own_parts(self, names: Iterable[str]) -> None:
        roles = {"steward": Role.STEWARD, "system": Role.SYSTEM, OWNER: Role.CLIENT}
        users = []
        for name in names:
            path = self.folder.key(name)
            if not path.exists():
                pair = KeyPair.generate()
                store_seed(path, pair, durable=self.config.durable)
                users.append(User(role=roles.get(name, Role.NODE), name=name, public_key=pair.public))
        if users:
            self._users.add(*users, replace=True)

    def _node_name(self, index: int) -> str:
        if self.member is not None:
            return self.member.node_name(index)
        host = paths.machine_name()
        return host if index == 0 else f"{host}-{index + 1}"

    def _broker_config(self) -> BrokerConfig:
        config, folder = self.config, self.folder
        cert: Path | None = None
        key: Path | None = None
        place: ClusterConfig | None = None
        if self.member is not None or not (self.local or config.insecure_plaintext):
            from farmhand.security import authority

            names = authority.listen_names(config.listen) + ([self.member.host] if self.member else [])
            files = authority.prepare(folder.tls, names, durable=config.durable)
            place = self._cluster_config(self.member, files) if self.member else None
            if not self.local:
                cert, key, self._pin = files.cert, files.key, files.pin
        if self.member is not None:
            config.port = self.member.port
        port = config.port
        if port == ANY_PORT:
            port = folder.remembered_port() or ANY_PORT
        return BrokerConfig(
            folder=folder.engine, store_dir=folder.engine / ("cluster" if place else "store"), cluster=place,
            server_name=self.member.name if self.member else folder.server_name, users_conf=self._users.conf_path, host=config.listen,
            port=port, websocket_port=config.websocket_port, tls_cert=cert, tls_key=key,
            insecure_plaintext=config.insecure_plaintext, sync_always=config.power, max_file_store=config.max_file_store,
            log_file=folder.logs / "engine.log",
        )  # fmt: skip

    def _cluster_config(self, own: cluster.Member, files: ServerFiles) -> ClusterConfig:
        others = [server.route for server in self._users.load().servers if server.name != own.name]
        return ClusterConfig(secret=own.secret, port=own.route_port, advertise=own.server.address, cert=files.cert,
                             route_advertise=own.server.route, routes=tuple(others), key=files.key, ca=files.ca)  # fmt: skip

    def _start_children(self) -> None:
        keys = self.folder.keys
        ca = ["--ca", str(self.folder.ca)] if self._broker.config.tls else []
        base = [sys.executable, "-P", "-m"]  # -P: a module in the user's working directory must not stand in the way
        steward = [*base, "farmhand.steward", "--keys", str(keys), "--users", str(self.folder.root),
                   "--log", str(self.folder.logs / "steward.log"), "--log-level", self.config.log_level, *ca,
                   *(["--cluster"] if self.member else [])]  # fmt: skip
        self._children["steward"] = Child("steward", steward, self.events)
        cache = self.config.cache or paths.cache()
        for index, slots in enumerate(self.config.nodes):
            name = self._node_name(index)
            command = [*base, "farmhand.node", "--key", str(self.folder.key(name)), "--node", name,
                       "--slots", str(slots), "--cache", str(cache), "--spool", str(self._spool / name),
                       "--grace", str(self.config.grace), "--log", str(self.folder.logs / f"node-{name}.log"),
                       "--log-level", self.config.log_level, *ca]  # fmt: skip
            for capability in self.config.capabilities:
                command += ["--capability", capability]
            self._children[name] = Child(name, command, self.events)
        for child in self._children.values():
            child.start()

    def _describe(self) -> paths.FarmFile:
        address = self._broker.address
        ports = self._broker.ports
        assert ports is not None
        return paths.FarmFile(
            address=address, pid=os.getpid(), version=VERSION, engine_pid=self._broker.pid,
            steward_pid=self._children["steward"].pid,
            node_pids=tuple(child.pid for name, child in self._children.items() if name != "steward"),
            join_line=self._join_line(parse_address(address)), port=ports.nats,
            websocket=self._broker.websocket_address or "", spool=str(self._spool) if self.local and not self.member else "",
            server=self.member.name if self.member else "", server_line=self._server_line(parse_address(address)),
        )  # fmt: skip

    def _server_line(self, address: Address) -> str:
        if self.member is None:
            return ""
        there = msgspec.structs.replace(address, host=self.member.host)
        return cluster.server_line(there, self._pin, self._users.load())

    def _join_line(self, address: Address) -> str:
        from farmhand.security.joinline import JoinLine

        if not self.local:
            address = msgspec.structs.replace(address, host=monitor.public_host(self.config.listen))
        line = JoinLine(msgspec.structs.replace(address, token="", pin=""), self._users.load().join_token, self._pin,
                        self.config.insecure_plaintext and not self.local)  # fmt: skip
        return str(line)

    # ---- running

    def _supervise(self) -> None:
        while True:
            kind, name = next_event(self.events)
            if kind == "stop":
                return
            if kind == "start":
                self._restart(name)
            elif kind == "heal":
                self._broker.stop(HEAL_S)
                self._restart(name)
            elif kind == "ended" and not self._stopping:
                cluster.check_place(self.folder.root, cluster.member(self.folder.root))
                log.warning("%s has ended", name)
                self._restart_later(name)

    def _watch_disk(self) -> DiskWatch:
        broker, given = self._broker, self.config.max_file_store
        watch = DiskWatch(broker.config.store_dir, broker.config.log_path,
                          lambda: broker.max_file_store if given is None else 0,
                          lambda _why: self.events.put(("heal", "engine")))  # fmt: skip
        watch.start()
        return watch

    def _restart_later(self, name: str, engine_wait: float = RESTART_FIRST_S) -> None:
        wait = engine_wait if name == "engine" else self._children[name].pause()
        timer = threading.Timer(wait, lambda: self.events.put(("start", name)))
        timer.daemon = True
        timer.start()

    def _restart(self, name: str) -> None:
        if name != "engine":
            self._children[name].start()
            self._children[name].tell(self._broker.address)
        elif not self._broker.alive:
            try:
                self._broker.start()
            except errors.EngineError as error:
                log.warning("the engine could not be started again: %s", error)
                self._restart_later(name, ENGINE_RETRY_S)
                return
        self._content = self._describe()
        self.folder.write(self._content)

    # ---- ending

    def _end_all(self) -> None:
        """Nodes first, while there is an engine to report to; then the steward, then the engine."""
        self._stopping = True
        grace = QUICK_S if self.config.quick_end else self.config.grace + limits.REQUEST_S + 2.0
        nodes = [child for name, child in self._children.items() if name != "steward"]
        steward = [self._children["steward"]] if "steward" in self._children else []
        self._end(nodes, grace)
        self._end(steward, QUICK_S)
        if hasattr(self, "_broker"):
            if self.config.quick_end:
                self._broker.kill()
            else:
                self._broker.stop()

    def _end(self, children: list[Child], grace: float) -> None:
        for child in children:
            if self.config.quick_end:
                child.hang_up()
            else:
                child.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        for child in children:
            if not child.wait(max(0.0, deadline - time.monotonic())):
                child.signal(getattr(signal, "SIGKILL", signal.SIGTERM))
                child.wait(5.0)
                processes.kill_orphans()
            child.hang_up()


def main() -> None:
    """Entry point of an embedded farm's supervisor. The configuration comes as the first line of the input, as JSON."""
    config = msgspec.json.decode(first_line(), type=HostConfig, dec_hook=lambda _type, value: Path(value))
    config.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    start_logging(config.folder / "host.log", config.log_level)
    host = Host(config)
    signal.signal(signal.SIGTERM, lambda *_: host.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to handle; our input ends when it does
    at_end_of_input(host.stop)  # the embedded farm's client holds the other end; its death closes it

    def ready(content: paths.FarmFile) -> None:
        _say({"farm": msgspec.to_builtins(content)})

    try:
        host.run(ready)
    except errors.FarmhandError as error:
        _say({"error": str(error), "kind": type(error).__name__})
        sys.exit(1)


def _say(content: dict[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, msgspec.json.encode(content) + b"\n")


if __name__ == "__main__":
    main()
