"""Keeps one node agent alive on a machine that works for a farm elsewhere: what `farmhand join` is.

The agent is started again whenever it dies, with a growing pause. When this process dies without a word, the agent sees
the end of its input, kills what it started, and ends.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from farmhand.home import paths
from farmhand.home.enrol import Enrolled
from farmhand.model import limits
from farmhand.node import processes
from farmhand.node.host import Child, next_event

log = logging.getLogger("farmhand.host")

_KILL_S: Final = 5.0


class KeeperConfig(msgspec.Struct, kw_only=True):
    """What to run. `log` is the agent's own log file."""

    identity: Enrolled
    slots: int
    log: Path
    grace: float = limits.GRACE_S
    capabilities: tuple[str, ...] = ()
    log_level: str = "info"

    @property
    def spool(self) -> Path:
        """Where large values lie under way. One place for each identity, so that what a kill left behind is found."""
        return (
            paths.shared_memory()
            / f"farmhand-{hashlib.blake2b(str(self.identity.key).encode(), digest_size=6).hexdigest()}"
        )


class Keeper:
    """See the head of this file. `run` blocks until `stop`."""

    def __init__(self, config: KeeperConfig) -> None:
        self.config = config
        self._events: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._child = Child("the node", self._command(), self._events)

    def _command(self) -> list[str]:
        config, identity = self.config, self.config.identity
        command = [
            sys.executable, "-P", "-m", "farmhand.node", "--key", str(identity.key), "--node", identity.name,
            "--slots", str(config.slots), "--cache", str(paths.cache()), "--spool", str(config.spool),
            "--grace", str(config.grace), "--log", str(config.log),
            "--log-level", config.log_level,
        ]  # fmt: skip
        if identity.ca is not None:
            command += ["--ca", str(identity.ca)]
        for capability in config.capabilities:
            command += ["--capability", capability]
        return command

    def run(self) -> None:
        """Keep the agent running until `stop`; then let it leave in good order."""
        processes.adopt_orphans()
        spool = self.config.spool
        shutil.rmtree(
            spool, ignore_errors=True
        )  # of a run that was killed; our identity is locked, so it is nobody else's
        spool.mkdir(mode=0o700)
        self._start()
        try:
            while (event := next_event(self._events)[0]) != "stop":
                if event == "start":
                    self._start()
                else:
                    self._restart_later()
        finally:
            self._end()
            shutil.rmtree(spool, ignore_errors=True)

    def stop(self) -> None:
        """Leave the farm. Safe from a signal handler."""
        self._events.put(("stop", ""))

    def hurry(self) -> None:
        """Leave without finishing what runs. Safe from a signal handler."""
        self.stop()
        self._child.signal(signal.SIGTERM)  # an agent that is told twice ends its grace

    def _start(self) -> None:
        self._child.start()
        self._child.tell(str(self.config.identity.address))

    def _restart_later(self) -> None:
        pause = self._child.pause()
        log.warning("the node's agent has ended; it is started again in %.2f s", pause)
        timer = threading.Timer(pause, lambda: self._events.put(("start", "")))
        timer.daemon = True
        timer.start()

    def _end(self) -> None:
        self._child.signal(signal.SIGTERM)
        if not self._child.wait(self.config.grace + limits.REQUEST_S + 2.0):
            self._child.hang_up()  # it kills what it started
            if not self._child.wait(_KILL_S):
                self._child.signal(getattr(signal, "SIGKILL", signal.SIGTERM))
                self._child.wait(_KILL_S)
        self._child.hang_up()
