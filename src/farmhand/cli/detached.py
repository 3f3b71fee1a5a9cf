"""Starts a farm that outlives this command, and waits until it is ready."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import IO, Any

from farmhand import errors
from farmhand.home.paths import FarmFolder
from farmhand.node.host import HostConfig

_WAIT_S = 60.0  # the engine may recover a large store (30 s), then the nodes get their 20 s
_TAIL_LINES = 5


def start_detached(config: HostConfig) -> dict[str, Any]:
    """Start `farmhand up` in a session of its own; what it says of itself when it is ready.

    Raises: what keeps it from starting; `EngineStartFailed` when it says nothing.
    """
    folder = FarmFolder(config.folder)
    folder.make()
    log = folder.logs / "host.stderr"
    with log.open("wb") as errors_to:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "farmhand.cli", "up", "--json", *_arguments(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors_to,
            **_apart(),
        )
    assert process.stdout is not None
    try:
        line = _first_line(process.stdout)
    except BaseException:
        process.terminate()
        raise
    if not line:
        process.terminate()
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise errors.EngineStartFailed(f"the farm did not say that it is ready; see {folder.logs}\n{tail}".strip())
    said: dict[str, Any] = json.loads(line)
    if "error" in said:
        process.wait()
        raise getattr(errors, said["kind"], errors.EngineStartFailed)(said["error"])
    process.returncode = 0  # it is not ours to wait for any more
    return said


def _arguments(config: HostConfig) -> list[str]:
    """The same configuration as options."""
    given = [
        "--nodes",
        str(len(config.nodes)),
        "--listen",
        config.listen,
        "--grace",
        str(config.grace),
        "--durability",
        "power" if config.power else "process",
        "--log-level",
        config.log_level,
    ]
    if config.nodes:
        given += ["--slots", str(sum(config.nodes))]
    if config.port > 0:
        given += ["--port", str(config.port)]
    if config.websocket_port is not None:
        given += ["--websocket", str(config.websocket_port)]
    if config.insecure_plaintext:
        given.append("--insecure-plaintext")
    for capability in config.capabilities:
        given += ["--capability", capability]
    return given


def _apart() -> dict[str, Any]:
    """So that the end of this terminal, or its Ctrl-C, is not the farm's."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _first_line(stream: IO[bytes]) -> bytes:
    """One line; empty when the stream ends or the time is over. A thread reads: pipes have no deadline everywhere."""
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(_WAIT_S)
    return found[0] if found else b""
