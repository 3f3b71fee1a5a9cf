"""A node within one process: agent and slot are threads. For devices where processes cannot start, or must not.

Nothing here needs a subprocess, a signal, psutil or shared memory. The process that has this node is what dies when a task
kills it, and it comes back when somebody starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from farmhand import errors
from farmhand.home import paths, saved
from farmhand.home.enrol import Enrolled
from farmhand.home.identity import identify
from farmhand.home.lock import Lock
from farmhand.home.process import new_loop
from farmhand.model import limits
from farmhand.model.needs import PROCESS
from farmhand.model.settings import check_capability
from farmhand.node import monitor
from farmhand.node.agent import Agent
from farmhand.node.config import Config
from farmhand.node.slotthread import ThreadSlots
from farmhand.security.private_files import make_private_folder

log = logging.getLogger("farmhand.node")

_NOT_HERE = ("mem", PROCESS)  # what takes a process to keep


def join(
    line: str, *, name: str = "", capabilities: Iterable[str] = (), grace: float = limits.GRACE_S
) -> InProcessNode:
    """Let this process work for a farm, with one slot that is a thread of it. Returns when the machine is taken in.

    line: a join line the first time, then the farm's address, or a name saved with `farmhand use`.
    name, capabilities, grace: as of `farmhand join`.

    Raises: `BadAddress`, `BadNeed`, `BadOption`, `WrongPin`, `CredentialRefused`, `CredentialMissing`, `NameTaken`,
    `FarmRunning`, `EngineUnreachable`, `VersionMismatch`, within 5 s.
    """
    texts = tuple(capabilities)
    check_capabilities(texts)
    # On a thread, because an event loop on the main one wants signals, and there may be none.
    with ThreadPoolExecutor(1) as aside:
        identity, held = aside.submit(identify, saved.address_of(line), name, log.warning).result()
    try:
        return InProcessNode(identity, held, texts, grace)
    except BaseException:
        held.release()
        raise


def check_capabilities(texts: Iterable[str]) -> None:
    """Raises `BadNeed` for what is no capability, `BadOption` for one that a node without processes cannot have."""
    for text in texts:
        if text.partition("=")[0].strip().lower() in _NOT_HERE:
            raise errors.BadOption(
                f"{text}: a node without processes can neither measure a task's memory nor give it a process"
            )
        check_capability(text)


class InProcessNode:
    """A running node of this process. As a context it leaves at the end of the block.

    `wait` blocks until it has left; `leave` makes it leave, from any thread or a signal handler.
    """

    def __init__(self, identity: Enrolled, held: Lock, capabilities: Iterable[str], grace: float) -> None:
        self.identity = identity
        self._held = held
        self._grace = grace
        self._capabilities = monitor.add_capabilities(monitor.capabilities(1, processes=False), capabilities)
        self._spool = Path(tempfile.mkdtemp(prefix="farmhand-node-", dir=paths.shared_memory()))
        self._slots = ThreadSlots(self._on_stuck)
        self._agent: Agent | None = None
        self._main: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._left = False
        self._ended = threading.Event()
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._run, name="farmhand-node", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """This node's name in the farm."""
        return self.identity.name

    def wait(self, timeout: float | None = None) -> bool:
        """Return when the node has left; False when it has not within `timeout` seconds.

        Raises: `NodeStuck` when it left because too many tasks that it had given up still run here.
        """
        left = timeout
        while not self._ended.is_set() and (left is None or left > 0):
            # A signal may reach another thread, and only between two waits does this one run handlers. An event, because
            # Python 3.11 takes a thread for ended whose join was interrupted.
            pause = limits.SIGNAL_S if left is None else min(limits.SIGNAL_S, left)
            self._ended.wait(pause)
            left = None if left is None else left - pause
        if not self._ended.is_set():
            return False
        if self._error is not None:
            raise self._error
        return True

    def leave(self) -> None:
        """Take nothing new, let finish for the grace what runs, and go. A second call ends the grace."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._left = True
        if self._agent is not None and hasattr(self._agent, "connection"):
            self._agent.spawn(self._agent.leave())
        elif self._main is not None:  # the farm has not been there yet
            self._main.cancel()

    def _on_stuck(self) -> None:
        self._error = errors.NodeStuck()
        self._loop.call_soon(self._leave)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._main = self._loop.create_task(self._work())
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        except Exception as error:  # `wait` raises it
            log.exception("the node has ended")
            self._error = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
            self._slots.streams.restore()
            shutil.rmtree(self._spool, ignore_errors=True)
            self._held.release()
            self._ended.set()

    async def _work(self) -> None:
        again = True
        while again and not self._left:
            config = Config(
                node=self.name, name=self.name, slots=1, cache=self._cache(), spool=self._spool,
                capabilities=self._capabilities, grace=self._grace, options=self.identity.options(), in_process=True,
            )  # fmt: skip
            self._agent = Agent(config, self._slots.new)
            again = await self._agent.run()

    def _cache(self) -> Path:
        """Where code is kept; for as long as this node only, where there is no folder to write to."""
        with contextlib.suppress(OSError):
            make_private_folder(paths.cache())
            if os.access(paths.cache(), os.W_OK):
                return paths.cache()
        return self._spool / "cache"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        self.wait()
