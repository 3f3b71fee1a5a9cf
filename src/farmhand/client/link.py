"""One connection to a farm, driven by a thread of its own: what every kind of session stands on.

Any thread may ask the farm something; what the farm says arrives on the loop's thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from farmhand import errors
from farmhand.engine.asking import ask_steward
from farmhand.engine.connection import Connection
from farmhand.engine.options import Options
from farmhand.home.process import new_loop
from farmhand.model import limits

if TYPE_CHECKING:
    from farmhand.client.futures import FarmFuture
    from farmhand.client.inputs import Source
    from farmhand.client.large import Large
    from farmhand.client.results import Results
    from farmhand.client.sending import CodeSender
    from farmhand.core.session import Ended
    from farmhand.core.tasks import Counts, Group, Task
    from farmhand.engine.stored import Publisher
    from farmhand.model.named import SessionState
from farmhand.model.peers import check_peer

log = logging.getLogger("farmhand.client")


class DriverConfig(msgspec.Struct, kw_only=True):
    """What a session is made with."""

    connect: Callable[[], Options]  # called on the loop's thread, where slow imports hurt nobody
    bound: int = 0  # batches under way at once, 0 for what the slots ask for
    on_client_loss: str = "kill"
    spool: str = ""  # a folder that client and slots share, when the farm is on this machine
    output: bool = True


class Link:
    """Connects, greets the farm, and stays until `close`. What a session does with it is in the methods that it overrides."""

    def __init__(self, config: DriverConfig) -> None:
        self.config = config
        self.farm: dict[str, Any] = {}  # what the steward said of itself
        self.broken: Exception | None = None
        self._blobs = itertools.count(1)
        self.left: weakref.WeakSet[FarmFuture[Any]] = weakref.WeakSet()  # whose large values nobody has asked for
        self.numbers: Iterator[int] = itertools.repeat(0)  # for tasks, when they have one before they are stored
        self.connection: Connection
        self.loop: asyncio.AbstractEventLoop
        self.closing: asyncio.Event
        self._started: threading.Event = threading.Event()
        self._start_error: BaseException | None = None
        self._unwanted = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run_thread, name="farmhand-session", daemon=True)

    # ---- what a session adds

    config: DriverConfig
    session_id: str
    tag: str  # in the names of its large arguments
    publisher: Publisher
    sender: CodeSender
    results: Results
    fetching: set[FarmFuture[Any]]  # whose tasks are done and whose values are on their way

    shares_memory = False  # large memory of arguments is stored once for all calls that have it

    def fetch(self, future: FarmFuture[Any]) -> None:
        """Somebody asks for a large value that was left on the farm; from any thread."""
        if self.alive:
            self.loop.call_soon_threadsafe(self.results.fetch_left, future)

    def fetch_unserving(self) -> None:
        """Return when large values that have served no call are here."""
        if not self.alive or self.on_its_thread():
            return
        found: concurrent.futures.Future[list[FarmFuture[Any]]] = concurrent.futures.Future()
        with contextlib.suppress(RuntimeError):  # the loop has just ended
            self.loop.call_soon_threadsafe(lambda: found.set_result([left for left in self.left if not left.serves]))
        while self._thread.is_alive() and not found.done():
            concurrent.futures.wait([found], limits.SIGNAL_S)
        for future in found.result() if found.done() else ():
            future.exception()

    def keep(self, source: Source, large: Large) -> None:
        """Remove this when the source dies."""
        raise NotImplementedError

    def keeps(self, _blob_id: str) -> bool:
        """Whether a source has this large value."""
        return False

    def new_blob(self) -> str:
        """A name for a large value of this session."""
        return f"{self.tag}{next(self._blobs):x}"

    def connection_name(self) -> str:
        """By which the engine and the steward know the connection."""
        raise NotImplementedError

    async def begin(self) -> None:
        """The farm has answered: subscribe, read, start."""
        raise NotImplementedError

    async def say_goodbye(self) -> None:
        """The session ends; the connection is still there."""
        raise NotImplementedError

    def flush(self, _seconds: float | None = None) -> bool:
        """Wait until everything that was submitted is stored. False when it is not, `seconds` later."""
        return True

    def break_all(self, error: Exception) -> None:
        """The session cannot go on: whoever waits for something hears `error`."""
        raise NotImplementedError

    def submit(self, group: Group, task: Task) -> None:
        """Accept one task, from any thread."""
        raise NotImplementedError

    def submit_many(self, group: Group, tasks: Iterable[Task]) -> None:
        """Accept many tasks of one group."""
        raise NotImplementedError

    def check_room(self) -> None:
        """Raise `EngineFull` or `SessionFull` when no more work is taken."""
        raise NotImplementedError

    def cancel(self, task: Task) -> bool:
        """As `Future.cancel`; from any thread."""
        raise NotImplementedError

    def kill(self, task: Task) -> bool:
        """Stop a task wherever it is; from any thread. True when it is ended at once; else its outcome says so."""
        raise NotImplementedError

    def cancel_waiting(self) -> None:
        """Cancel every task submitted here that is not known to run."""
        raise NotImplementedError

    def forget(self, entry: Any) -> None:
        """A task was withdrawn: what is the matter with its arguments."""
        raise NotImplementedError

    @property
    def open(self) -> int:
        """Futures that wait for something."""
        raise NotImplementedError

    @property
    def counts(self) -> Counts | SessionState:
        """What the session has done so far."""
        raise NotImplementedError

    def wait_all(self) -> None:
        """Return when every task submitted here has its outcome."""
        raise NotImplementedError

    def wake_waiters(self) -> None:
        """Tell `wait_all` that outcomes have come."""
        raise NotImplementedError

    def leave(self) -> None:
        """Return when this client may end without a loss."""
        raise NotImplementedError

    def abandon(self) -> None:
        """End the session in a hurry."""
        raise NotImplementedError

    def on_forked(self) -> None:
        """In a forked child: nothing that waits there would ever end, so everything ends with an error."""
        raise NotImplementedError

    def on_failed(self, effect: Ended) -> None:
        """A task ended badly; its arguments are still here."""
        raise NotImplementedError

    def on_initializer_failed(self, error: Exception) -> None:
        """A slot says so."""
        raise NotImplementedError

    # ---- life

    def start(self) -> None:
        """Connect and greet the farm. Raises what that raised, within a few seconds."""
        self._thread.start()
        while not self._started.wait(limits.SIGNAL_S):
            pass
        if self._start_error is not None:
            self._thread.join()
            raise self._start_error

    def _run_thread(self) -> None:
        self.loop = new_loop()
        try:
            self.loop.run_until_complete(self._main())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the start or for a future must hear of it
            self._start_error = error
            self.break_all(error if isinstance(error, Exception) else errors.FarmClosed(str(error)))
        finally:
            self._started.set()
            self.loop.close()

    async def _main(self) -> None:
        self.closing = asyncio.Event()
        options = self.config.connect()
        options.name = self.connection_name()
        self.connection = await Connection.open(options)
        try:
            await self._greet()
            await self.begin()
            self._started.set()
            if not self._unwanted:
                await self.closing.wait()
            await self.say_goodbye()
        finally:
            await self._end_tasks()
            await self.connection.close()

    async def _end_tasks(self) -> None:
        """A value that is half read lets go of its thread."""
        for _ in range(3):  # `wait_for` of Python 3.11 may lose a cancellation
            if not (tasks := list(self._tasks)):
                return
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=limits.SIGNAL_S)

    async def _greet(self) -> None:
        """The steward's answer tells versions. It may be starting."""
        self.farm = await self.request("hello", timeout=limits.EMBEDDED_START_S)
        address = self.connection.options.address
        check_peer(f"the farm at {address}", self.farm["version"], self.farm["protocol"], "this client")

    async def request(self, verb: str, body: bytes = b"", *, timeout: float = limits.REQUEST_S) -> Any:
        """A request to the steward, as `ask_steward` makes it."""
        return await ask_steward(self.connection, verb, body, timeout=timeout)

    def ask(self, verb: str, body: bytes = b"") -> Any:
        """The same from any thread but the loop's. Raises `FarmClosed` when the session has ended."""
        if self.broken is not None or not self._thread.is_alive():
            raise errors.FarmClosed(str(self.broken or "the session has ended"))
        if self.on_its_thread():
            raise RuntimeError("a future's callback cannot wait for the farm's answer; ask from another thread")
        return asyncio.run_coroutine_threadsafe(self.request(verb, body), self.loop).result()

    def on_its_thread(self) -> bool:
        """Whether the caller is a future's callback, which must not wait for what this thread does."""
        return threading.current_thread() is self._thread

    def abandon_start(self) -> None:
        """Nobody waits for `start` any more: connect to nothing."""
        self._unwanted = True
        if self._started.is_set():
            self.close()

    @property
    def alive(self) -> bool:
        """Whether the thread runs. When it does not, nothing comes any more."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the session. Waits for the thread unless called on it."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop may just have ended by itself
                self.loop.call_soon_threadsafe(self.closing.set)
            if not self.on_its_thread():
                self._thread.join()
        self.break_all(errors.FarmClosed())

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run a coroutine beside, on the loop; its failure breaks the session rather than being lost."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("the session's background work failed", exc_info=error)
            self.break_all(error if isinstance(error, Exception) else errors.FarmClosed(str(error)))


def left_behind(error: Exception) -> Exception:
    """What ends a future whose large value stays on the farm."""
    return errors.FarmClosed(f"{error} Its large value was left there, since only other calls used it: ask for the result "
                             f"while the farm is open")  # fmt: skip
