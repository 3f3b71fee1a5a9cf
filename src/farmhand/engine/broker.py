"""The engine's process: starts nats-server, knows where it listens, ends it, and can start it again in the same place.

What it must never do: leave a server behind that nobody will end. On Linux the server asks the kernel to be killed when
the thread that started it ends, so a thread of its own starts it and then waits for it; that thread ends only with the
server or with this process. Elsewhere the server is started directly, and a SIGKILL of this process leaves it behind.

Synchronous on purpose: its owner is a light supervisor without an event loop. Calls come from one thread; `on_exit` is
called from the waiting thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from farmhand import errors
from farmhand.engine import broker_config, launch
from farmhand.engine.broker_config import ANY_PORT, BrokerConfig
from farmhand.engine.server_binary import find_server
from farmhand.engine.tls_probe import read_info
from farmhand.model.limits import CONNECT_S

__all__ = ["ANY_PORT", "Broker", "BrokerConfig", "find_server"]

log = logging.getLogger("farmhand.engine")

START_S: Final = 30.0  # an empty store is up in 10 ms, a million messages in under a second; a cold disk gets this long
STOP_S: Final = 10.0  # it flushes its stores; then it is killed, which loses nothing that was acknowledged
CHECK_S: Final = 0.002  # between looks for the ports file, each a wait for the process's end at the same time
LOG_LINES: Final = 20  # of the log in an error
LOG_TAIL_BYTES: Final = 16 * 1024


class Ports(NamedTuple):
    """What the server bound. `websocket` is None without a WebSocket door."""

    nats: int
    websocket: int | None


class _Life:
    """One life of the server: its process and the thread that started it and waits for it."""

    def __init__(self, command: list[str], stderr_path: Path, on_exit: Callable[[int], None] | None) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = threading.Event()
        self._launched = threading.Event()
        self._problem: OSError | None = None
        self._command = command
        self._stderr_path = stderr_path
        self._on_exit = on_exit
        self._lock = threading.Lock()
        self._announce = False  # whether its end is news: it was up, and nobody asked for the end
        threading.Thread(target=self._run, name="farmhand-engine", daemon=True).start()
        self._launched.wait()
        if self._problem is not None:
            raise errors.EngineStartFailed(f"{command[0]} cannot be run: {self._problem}")

    def _run(self) -> None:
        try:
            with self._stderr_path.open("wb") as stderr:
                self.process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    start_new_session=True,
                )
        except OSError as problem:
            self._problem = problem
            self._launched.set()
            return
        self._launched.set()
        code = self.process.wait()
        with self._lock:
            self.ended.set()
            announce = self._announce
        if announce and self._on_exit is not None:
            self._on_exit(code)

    def watch(self) -> bool:
        """From now on its end is told to `on_exit`. False when it has ended already, which then nobody is told."""
        with self._lock:
            self._announce = not self.ended.is_set()
            return self._announce

    def unwatch(self) -> None:
        with self._lock:
            self._announce = False


class Broker:
    """One nats-server.

    `start` may be called again after `stop`, `kill` or the server's own end; it takes the same ports.
    on_exit: called with the exit code (negative: a signal's number) when a started server ends unasked.
    """

    def __init__(self, config: BrokerConfig, *, on_exit: Callable[[int], None] | None = None) -> None:
        config.check()
        self.config = config
        self.version = ""  # of the server, once started
        self.ports: Ports | None = None  # kept over restarts, so that who was connected finds it again
        self.max_file_store = 0  # bytes that stored messages may take in all; set by each start
        self._on_exit = on_exit
        self._life: _Life | None = None

    # ---- starting

    def start(self, deadline_s: float = START_S) -> None:
        """Start the server and return when it takes connections and its stores are recovered.

        Raises: `PortInUse`, `EngineStartFailed` with the log's last lines, `ServerNotFound`, `ServerTooOld`.
        After an error no process is left.
        """
        if self.alive:
            raise errors.EngineStartFailed("the engine runs already")
        config = self.config
        config.check()
        if config.exposed:
            log.warning(
                "the engine listens on %s in PLAIN TEXT (--insecure-plaintext): all that passes can be read",
                config.host,
            )
        path, self.version = find_server()
        self._write_conf()
        log_size = _size(config.log_path)
        self._life = life = _Life(_command(path, config.conf_path), self._stderr_path, self._on_exit)
        try:
            self.ports = self._settle(life, time.monotonic() + deadline_s)
        except _NotUp as problem:
            self.kill()
            raise self._start_error(str(problem), log_size) from None
        except BaseException:  # Ctrl-C while waiting
            self.kill()
            raise

    def _write_conf(self) -> None:
        config = self.config
        config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.store_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in config.folder.glob("nats-server_*.ports"):  # of a server that was killed; process ids come again
            stale.unlink(missing_ok=True)
        ports = self._wanted_ports
        store = config.max_file_store
        self.max_file_store = broker_config.default_max_file_store(config.store_dir) if store is None else store
        text = broker_config.render(config, ports.nats, ports.websocket, self.max_file_store)
        config.conf_path.write_text(text, encoding="utf-8")

    def _settle(self, life: _Life, deadline: float) -> Ports:
        """Return when the server is ready, and from then on watch it."""
        ports = self._wait_for_ports(life, deadline)
        self._check_closed(ports.nats)
        if not life.watch():
            raise _NotUp("it ended at once")
        return ports

    def _wait_for_ports(self, life: _Life, deadline: float) -> Ports:
        """Where it listens. The server writes the file when all its doors are open."""
        path = self.config.folder / f"nats-server_{self.pid}.ports"
        while True:
            ports = _read_ports(path, websocket=self.config.websocket_port is not None)
            if ports is not None:
                return ports
            if life.ended.wait(CHECK_S):
                raise _NotUp("it ended at once")
            if time.monotonic() > deadline:
                raise _NotUp("it was not ready in time")

    def _check_closed(self, port: int) -> None:
        """The last look before the farm is told of it: a server that asks nobody who he is must not stay up."""
        host = self.local_host
        try:
            with socket.create_connection((host, port), timeout=CONNECT_S) as sock:
                info = read_info(sock, f"{host}:{port}", CONNECT_S, tls=self.config.tls)
        except (OSError, errors.FarmhandError) as problem:
            raise _NotUp(f"it does not answer ({problem})") from problem
        if not info.get("auth_required"):
            raise _NotUp(f"{self.config.users_conf} names no user, so it would let everybody in")

    def _start_error(self, what: str, log_size: int) -> errors.EngineStartFailed:
        lines = [*_tail(self._stderr_path, 0), *_tail(self.config.log_path, log_size)]
        text = f"the engine did not start: {what}; its log ({self.config.log_path}) ends with:\n" + "\n".join(lines)
        if any("address already in use" in line or "Only one usage of each socket" in line for line in lines):
            wanted = " or ".join(str(port) for port in self._wanted_ports if port is not None)
            return errors.PortInUse(f"another program listens on port {wanted}; {text}")
        return errors.EngineStartFailed(text)

    @property
    def _wanted_ports(self) -> Ports:
        return self.ports or Ports(self.config.port, self.config.websocket_port)

    # ---- what is known of it

    @property
    def alive(self) -> bool:
        """Whether the process runs, be it ready or not."""
        return self._life is not None and not self._life.ended.is_set()

    @property
    def pid(self) -> int:
        """The server's process id, of its last life when it has ended. 0 before the first start."""
        life = self._life
        return 0 if life is None or life.process is None else life.process.pid

    @property
    def address(self) -> str:
        """`nats://host:port` or `tls://host:port`, for this machine's own parts.

        Raises: `EngineStartFailed` before the first start.
        """
        return self._url("tls" if self.config.tls else "nats", self._bound().nats)

    @property
    def websocket_address(self) -> str | None:
        """`ws://host:port`, `wss://host:port`, or None without a WebSocket door."""
        port = self._bound().websocket
        return None if port is None else self._url("wss" if self.config.tls else "ws", port)

    def _bound(self) -> Ports:
        if self.ports is None:
            raise errors.EngineStartFailed("the engine was not started yet")
        return self.ports

    @property
    def local_host(self) -> str:
        """The host under which this machine's own parts reach it."""
        wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (where to reach it, nothing is bound)
        host = self.config.host.strip("[]")
        return wildcards.get(host, host)

    def _url(self, scheme: str, port: int) -> str:
        host = self.local_host
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def _stderr_path(self) -> Path:
        """What the server says before it has a log, and the stack traces of a crash. Of the last start only."""
        return self.config.log_path.with_suffix(".stderr")

    # ---- ending

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the server's end; its exit code, or minus the number of the signal. Raises `TimeoutError`."""
        life = self._life
        if life is None or life.process is None:
            return 0
        if not life.ended.wait(timeout):
            raise TimeoutError(f"the engine (process {life.process.pid}) still runs after {timeout} s")
        return life.process.returncode

    def stop(self, grace: float = STOP_S) -> int:
        """Ask the server to end, kill it after `grace` seconds. Its exit code. Harmless when it has ended."""
        if self._life is not None and self._life.process is not None:
            self._life.unwatch()  # an end that was asked for is no news
            self._life.process.terminate()
        try:
            return self.wait(grace)
        except TimeoutError:
            log.warning("the engine did not end within %.0f s and is killed", grace)
            return self.kill()

    def kill(self) -> int:
        """End the server at once and wait until it is gone. What it acknowledged is in its store."""
        if self._life is not None and self._life.process is not None:
            self._life.unwatch()
            self._life.process.kill()
        return self.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port(host: str) -> int:
    """A port of this machine that nobody has: for a server whose port others must be told before it starts."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


class _NotUp(Exception):
    """The server did not come up; the caller adds the log."""


def _command(server: Path, conf: Path) -> list[str]:
    """The command line, on Linux by way of the launcher. A Python without a path to itself (embedded) cannot launch."""
    direct = [str(server), "-c", str(conf.absolute())]
    if sys.platform != "linux" or not sys.executable:
        return direct
    return [sys.executable, "-I", "-S", str(Path(launch.__file__)), str(os.getpid()), *direct]


def _read_ports(path: Path, *, websocket: bool) -> Ports | None:
    """None while the file is not there or not complete."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    nats, ws = _port_of(found.get("nats")), _port_of(found.get("websocket"))
    if nats is None or (websocket and ws is None):
        return None
    return Ports(nats, ws if websocket else None)


def _port_of(urls: list[str] | None) -> int | None:
    return int(urls[0].rpartition(":")[2]) if urls else None


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _tail(path: Path, start: int) -> list[str]:
    """The last lines of a file, of what was written after byte `start`; of a log with complaints only these."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= end else 0, end - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    complaints = [line for line in lines if "[ERR]" in line or "[FTL]" in line]
    return (complaints or lines)[-LOG_LINES:]
