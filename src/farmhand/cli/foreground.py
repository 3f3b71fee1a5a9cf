"""Runs a farm's supervisor in this process, says when the farm is ready, and ends it in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from farmhand import errors
from farmhand.engine.asking import ask_steward, cluster_state
from farmhand.engine.connection import Connection
from farmhand.home import lock
from farmhand.home.cluster import SERVERS
from farmhand.home.login import options
from farmhand.home.logs import show_on_terminal, start_logging
from farmhand.home.paths import FarmFile
from farmhand.home.process import new_loop
from farmhand.model import limits
from farmhand.model.address import Address, parse_address
from farmhand.node.host import OWNER, Host, HostConfig
from farmhand.node.monitor import reachable_addresses
from farmhand.security.permissions import Role

_LOOK_S = 0.02  # between two looks whether everything is there; a node takes 0.2 s

Ready = Callable[[dict[str, Any]], None]


def run_here(config: HostConfig, on_ready: Ready, *, verbose: bool = False) -> None:
    """Run the farm until SIGINT or SIGTERM. `on_ready(description)` is called once, when it takes work.

    `verbose`: the terminal shows all that the supervisor logs, not only its warnings.

    Raises: `FarmRunning`, `PortInUse`, `PlaintextRefused` and whatever else keeps the engine from starting.
    """
    refuse_second(config)
    host = Host(config)
    host.folder.make()
    _start_logs(host, verbose=verbose)
    _obey_signals(host)

    def started(content: FarmFile) -> None:
        threading.Thread(target=_announce, args=(host, content, on_ready), name="announce", daemon=True).start()

    try:
        host.run(started)
    except errors.PortInUse as error:
        raise errors.PortInUse(f"{error}\n{_port_advice(host)}") from None


def refuse_second(config: HostConfig) -> None:
    """A clear word before anything is touched. The supervisor's own lock decides if two start at the same moment."""
    from farmhand.home.paths import FarmFolder

    there = lock.holder(FarmFolder(config.folder).lock)
    if there is not None:
        raise errors.FarmRunning(
            f"a farm runs in {config.folder} already (process {there.pid}); "
            "`farmhand status` shows it, `farmhand down` ends it"
        )


def _port_advice(host: Host) -> str:
    kept = host.folder.remembered_port()
    if host.config.port > 0 or not kept:
        return "Choose another port with --port."
    return f"Port {kept} is that of this farm's last run, by which joined machines know it; another one: --port."


def _start_logs(host: Host, *, verbose: bool) -> None:
    """All into a file; what the supervisor itself warns of on the terminal too."""
    start_logging(host.folder.logs / "host.log", host.config.log_level)
    show_on_terminal(logging.DEBUG if verbose else logging.WARNING)


def _obey_signals(host: Host) -> None:
    """The first one ends the farm in good order, a second one without waiting for what runs."""
    asked = 0

    def end(_number: int, _frame: object) -> None:
        nonlocal asked
        asked += 1
        (host.stop if asked == 1 else host.hurry)()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)


def _announce(host: Host, content: FarmFile, on_ready: Ready) -> None:
    runner_loop = new_loop()
    try:
        ready = runner_loop.run_until_complete(_wait_ready(host, content))
    finally:
        runner_loop.close()
    on_ready(describe(host, content, *ready))
    sys.stdout.flush()


async def _wait_ready(host: Host, content: FarmFile) -> tuple[bool, dict[str, Any] | None]:
    """Whether the steward answers and every slot has started before the deadline; and how a cluster is.

    A cluster that still lacks servers is not waited for: its server line is needed first. One whose others are only away or about
    to be heard of is waited for a moment.
    """
    state: dict[str, Any] | None = None
    ca = host.folder.ca if host.folder.ca.exists() else None
    login = options(parse_address(content.address), host.folder.key(OWNER), Role.CLIENT, OWNER, ca)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limits.EMBEDDED_START_S
    alone_at = loop.time() + limits.EMBEDDED_START_S / 2
    with contextlib.suppress(errors.FarmhandError):
        connection = await Connection.open(login)
        try:
            while loop.time() < deadline:
                with contextlib.suppress(errors.EngineError):
                    if host.member is not None:
                        state = await cluster_state(connection) or state
                        lacks = len(host.servers) < SERVERS or loop.time() > alone_at
                        joined = max(len(connection.servers.living), state["joined"] if state is not None else 0)
                        if state is not None and lacks and joined < SERVERS and not state["quorum"]:
                            return True, state
                    status = await ask_steward(connection, "status", timeout=1.0)
                    slots = sum(node["ready"] for node in status["nodes"])
                    if slots >= sum(host.config.nodes) and (state is None or state["quorum"]):
                        return True, state
                await asyncio.sleep(_LOOK_S)
        finally:
            await connection.close()
    return False, state


def describe(host: Host, content: FarmFile, ready: bool, cluster: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `up --json` says. Its keys are stable; docs/reference/cli.md describes them."""
    config, address = host.config, parse_address(content.address)
    warnings = []
    if not host.local and config.insecure_plaintext:
        warnings.append(
            f"the engine listens on {config.listen} in PLAIN TEXT (--insecure-plaintext): all that passes can be read"
        )
    if not ready:
        warnings.append("not every part was ready in time; `farmhand doctor` says which")
    others = [config.listen] if not host.local else []
    if config.listen in {"0.0.0.0", "::"}:  # noqa: S104 (a comparison)
        others = reachable_addresses(six=config.listen == "::")
    return {
        "address": content.address,
        "other_addresses": [
            str(Address(address.scheme, host, content.port)) for host in others if host != address.host
        ],
        "websocket": content.websocket,
        "port": content.port,
        "join_line": content.join_line,
        "listen": config.listen,
        "local": host.local,
        "tls": address.encrypted,
        "folder": str(config.folder),
        "pid": os.getpid(),
        "engine_pid": content.engine_pid,
        "steward_pid": content.steward_pid,
        "node_pids": list(content.node_pids),
        "nodes": len(config.nodes),
        "slots": sum(config.nodes),
        "server": content.server,
        "server_line": content.server_line,
        "cluster": cluster,
        "version": content.version,
        "ready": ready,
        "warnings": warnings,
    }
