"""The engine's configuration: what the supervisor decides, rendered to the server's own language."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
from pathlib import Path
from typing import Final

import msgspec

from farmhand import errors
from farmhand.model.limits import MB, PAYLOAD_BYTES_MAX

ANY_PORT: Final = -1  # the server's own word for a free port

# ---- limits of the server
PENDING_BYTES_MAX: Final = 64 * MB  # unsent bytes for one connection: eight of the largest messages, then it is cut off
WRITE_DEADLINE_S: Final = 10  # a peer that takes nothing for so long is cut off; it comes back and reads on by sequence
HANDSHAKE_S: Final = (
    5  # for TLS and for CONNECT each: a loaded machine's handshake takes over a second, 2 s is the default
)
SERVER_PING_S: Final = 5.0  # the server's own look for dead peers; clients ping it more often
SERVER_PINGS_OUT_MAX: Final = 3
MEMORY_STORE_BYTES: Final = (
    256 * MB
)  # nothing of ours is kept in memory streams; the default is three quarters of the machine
# Only then the server frees the space of removed messages that lie between others; its own default is two minutes. Messages
# removed since then come back after a kill, and would run again.
SYNC_INTERVAL: Final = "5s"
LOG_BYTES_MAX: Final = 16 * MB  # then a new log file; two old ones are kept
LOG_FILES_MAX: Final = 3

CLUSTER_NAME: Final = "farmhand"
ROUTE_USER: Final = "server"
ROUTE_PING_S: Final = 1  # with ROUTE_PINGS_OUT_MAX a server that is unplugged or frozen is taken for dead after 3 s
ROUTE_PINGS_OUT_MAX: Final = 2

# ---- the store's share of the disk: see `default_max_file_store`
DISK_MARGIN_SHARE: Final = 0.10  # of what is free or already ours: block indexes, consumer state, logs, other programs
DISK_MARGIN_BYTES_MAX: Final = 4 * 1024 * MB  # on a large disk a share would be waste
STORE_BYTES_MIN: Final = (
    16 * MB
)  # below it not even one result of each kind fits; the engine then refuses, with a clear error


class ClusterConfig(msgspec.Struct, kw_only=True):
    """This server's place in a cluster. Routes, the connections between servers, always speak TLS, both sides with a certificate.

    advertise: `host:port` at which clients reach this server. route_advertise: the same for other servers. routes: those of
    other servers, as far as they are known; the others are learnt from these.
    """

    secret: str
    port: int
    advertise: str
    route_advertise: str
    routes: tuple[str, ...]
    cert: Path
    key: Path
    ca: Path


class BrokerConfig(msgspec.Struct, kw_only=True):
    """How to run the engine. Relative paths mean the current directory; blanks in paths are fine.

    folder: keeps the rendered configuration, the ports file and, unless given, the log. Made with mode 0700.
    users_conf: the accounts block; read again when the server reloads.
    port, websocket_port: `ANY_PORT` for any free one; `websocket_port` None for no WebSocket door.
    max_file_store: bytes of stored messages; None: `default_max_file_store`.
    sync_always: each stored message waits for the disk, so that a power cut loses none.
    ping_interval: seconds.
    """

    folder: Path
    store_dir: Path
    users_conf: Path
    host: str = "127.0.0.1"
    port: int = ANY_PORT
    websocket_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_plaintext: bool = False
    max_file_store: int | None = None
    sync_always: bool = False
    max_payload: int = PAYLOAD_BYTES_MAX
    ping_interval: float = SERVER_PING_S
    log_file: Path | None = None
    server_name: str = "farmhand"
    cluster: ClusterConfig | None = None

    @property
    def conf_path(self) -> Path:
        """The rendered configuration."""
        return self.folder / "server.conf"

    @property
    def log_path(self) -> Path:
        """The log, wherever it was put."""
        return self.log_file or self.folder / "engine.log"

    @property
    def tls(self) -> bool:
        """Whether both doors speak TLS."""
        return self.tls_cert is not None

    @property
    def exposed(self) -> bool:
        """Reachable from other machines in plain text."""
        return not self.tls and not is_loopback(self.host)

    def check(self) -> None:
        """Raise `PlaintextRefused`, or `BadOption` for a half-given certificate."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise errors.BadOption("a TLS certificate and its key belong together; one of them is missing")
        if self.exposed and not self.insecure_plaintext:
            raise errors.PlaintextRefused(
                f"the engine would listen on {self.host} without TLS; listen on 127.0.0.1, let it use its certificate, "
                "or say --insecure-plaintext"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. Any name but localhost counts as no: it may resolve to anything."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def quoted(text: str) -> str:
    """A string of the server's configuration language, which reads JSON's escapes for quotes and backslashes."""
    if any(ord(char) < 32 for char in text):
        raise errors.BadOption(f"{text!r} holds a control character")
    return json.dumps(text, ensure_ascii=False)


def default_max_file_store(store_dir: Path) -> int:
    """Bytes that stored messages may take: what is free now and what the store has already, less a margin.

    The margin matters: a server that meets a really full disk stops answering until it is restarted, one that meets
    this limit refuses new messages with an error and goes on delivering.
    """
    nearest = next(folder for folder in (store_dir.absolute(), *store_dir.absolute().parents) if folder.exists())
    ours = shutil.disk_usage(nearest).free + _bytes_below(store_dir)
    margin = min(int(ours * DISK_MARGIN_SHARE), DISK_MARGIN_BYTES_MAX)
    return max(ours - margin, STORE_BYTES_MIN)


def _bytes_below(folder: Path) -> int:
    """What the files below `folder` take on the disk. Files that vanish meanwhile count as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(parent, name))  # noqa: PTH118 (twice as fast on a large store)
            except OSError:
                continue
            total += getattr(status, "st_blocks", status.st_size // 512) * 512
    return total


def render(config: BrokerConfig, port: int, websocket_port: int | None, max_file_store: int) -> str:
    """The text of `server.conf`. What a start settles is given apart: the ports, of the run before if there was one."""
    include = os.path.relpath(
        config.users_conf.absolute(), config.folder.absolute()
    )  # the server joins it to the folder
    lines = [
        "# Written by Farmhand at each start; changes made here are lost.",
        f"server_name: {quoted(config.server_name)}",
        f"host: {quoted(config.host.strip('[]'))}",
        f"port: {port}",
        f"ports_file_dir: {quoted(str(config.folder.absolute()))}",
        f"log_file: {quoted(str(config.log_path.absolute()))}",
        f"logfile_size_limit: {LOG_BYTES_MAX}",
        f"logfile_max_num: {LOG_FILES_MAX}",
        f"max_payload: {config.max_payload}",
        f"max_pending: {max(PENDING_BYTES_MAX, 2 * config.max_payload)}",
        f'write_deadline: "{WRITE_DEADLINE_S}s"',
        f'ping_interval: "{round(config.ping_interval * 1000)}ms"',
        f"ping_max: {SERVER_PINGS_OUT_MAX}",
        f"authorization {{ timeout: {HANDSHAKE_S} }}",
        "jetstream {",
        f"  store_dir: {quoted(str(config.store_dir.absolute()))}",
        f"  max_file_store: {max_file_store}",
        f"  max_memory_store: {MEMORY_STORE_BYTES}",
        f"  sync_interval: {'always' if config.sync_always else SYNC_INTERVAL}",
        "}",
        *_render_doors(config, websocket_port),
        *(_render_cluster(config, config.cluster) if config.cluster else ()),
        f"include {quoted(include)}",
        "",
    ]
    return "\n".join(lines)


def _render_doors(config: BrokerConfig, websocket_port: int | None) -> list[str]:
    """TLS for the engine's own port, and the WebSocket door in the same dress."""
    tls = ""
    if config.tls_cert is not None and config.tls_key is not None:
        cert, key = quoted(str(config.tls_cert.absolute())), quoted(str(config.tls_key.absolute()))
        tls = f"tls {{ cert_file: {cert}, key_file: {key}, timeout: {HANDSHAKE_S} }}"
    lines = [tls] if tls else []
    if websocket_port is not None:
        host = quoted(config.host.strip("[]"))
        told = (
            f"advertise: {quoted(f'{_host_of(config.cluster.advertise)}:{websocket_port}')}, " if config.cluster else ""
        )
        lines.append(f"websocket {{ host: {host}, port: {websocket_port}, {told}{tls or 'no_tls: true'} }}")
    return lines


def _host_of(place: str) -> str:
    return place.rpartition(":")[0]


def _render_cluster(config: BrokerConfig, cluster: ClusterConfig) -> list[str]:
    """The routes to the other servers. Of the first server there is one to itself: without any the store does not start."""
    routes = [
        quoted(f"nats-route://{ROUTE_USER}:{cluster.secret}@{place}")
        for place in dict.fromkeys((cluster.route_advertise, *cluster.routes))
    ]
    cert, key, ca = (quoted(str(path.absolute())) for path in (cluster.cert, cluster.key, cluster.ca))
    return [
        f"client_advertise: {quoted(cluster.advertise)}",
        "cluster {",
        f"  name: {quoted(CLUSTER_NAME)}",
        f"  host: {quoted(config.host.strip('[]'))}",
        f"  port: {cluster.port}",
        f"  advertise: {quoted(cluster.route_advertise)}",
        f"  authorization {{ user: {ROUTE_USER}, password: {quoted(cluster.secret)}, timeout: {HANDSHAKE_S} }}",
        f"  tls {{ cert_file: {cert}, key_file: {key}, ca_file: {ca}, verify: true, timeout: {HANDSHAKE_S} }}",
        f'  ping_interval: "{ROUTE_PING_S}s"',
        f"  ping_max: {ROUTE_PINGS_OUT_MAX}",
        f"  routes: [{', '.join(routes)}]",
        "}",
    ]
