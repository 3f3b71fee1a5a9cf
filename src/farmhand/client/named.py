"""Drives a client's part in a named session: stores what is submitted, and reads the outcomes that its caretaker has recorded.

Who decides is the caretaker in the steward; so any number of clients may be attached, and none has to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Final

import msgspec

from farmhand import errors
from farmhand.client import ending
from farmhand.client.blocks import Blocks
from farmhand.client.futures import FarmFuture, settle
from farmhand.client.inputs import Source, starve
from farmhand.client.large import Large
from farmhand.client.ledger import Ledger
from farmhand.client.link import DriverConfig, Link, left_behind
from farmhand.client.output import OutputPrinter
from farmhand.client.records import Record, Records
from farmhand.client.results import KeptResults
from farmhand.client.sending import CodeSender
from farmhand.client.stopping import Stopper
from farmhand.core import session as core
from farmhand.core.tasks import Group, Task, TaskState
from farmhand.engine import subjects
from farmhand.engine.ordered import OrderedReader
from farmhand.engine.stored import Publisher
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.ids import Token
from farmhand.model.named import HEADER, Place, SessionRequest, SessionState, read_state
from farmhand.model.outcome import Kind
from farmhand.model.version import VERSION

log = logging.getLogger("farmhand.client")

_STORED: Final = ()  # in the place of an entry that the engine has


class NamedDriver(Link):
    """One client of a named session. `start` makes the session or finds it."""

    def __init__(self, config: DriverConfig, wanted: SessionRequest) -> None:
        super().__init__(config)
        self.wanted = wanted
        self.session_id = ""
        self.tag = f"{secrets.token_hex(4)}-"  # in the names of large arguments: others submit too
        self.state = SessionState(wanted.name, "")
        self.ledger = Ledger()
        self.stopper = Stopper(self)
        self.blocks = Blocks(self)
        self.records = Records(self)
        self.publisher: Publisher
        self.sender: CodeSender
        self.results: KeptResults
        self.fetching: set[FarmFuture[Any]] = set()
        self.lock = threading.RLock()
        self._inbox: deque[tuple[Group, Task]] = deque()
        self._awake = False
        self._own = 0  # submitted here and without an outcome
        self._unstored = 0  # submitted here and not known to be stored
        self._idle = threading.Condition()
        self._futures: dict[Place, FarmFuture[Any]] = {}  # without an outcome
        self._seen: weakref.WeakValueDictionary[Place, FarmFuture[Any]] = weakref.WeakValueDictionary()
        self._running: dict[Place, str] = {}
        self._stored: asyncio.Event | None = None  # one more block is
        self._newest = 0  # the last block that was stored from here
        self._block_reader: OrderedReader
        self._readers: list[OrderedReader] = []

    # ---- life

    def connection_name(self) -> str:
        """See `Link`."""
        return f"attached:{self.wanted.name}:{self.tag}"

    async def begin(self) -> None:
        """See `Link`."""
        answer = await self.request("session", messages.encode(self.wanted), timeout=limits.EMBEDDED_START_S)
        self.state = msgspec.convert(answer, SessionState)
        self.session_id = session = self.state.session
        connection = self.connection
        self.publisher, self.sender, self.results = Publisher(connection), CodeSender(self), KeptResults(self)
        connection.subscribe(subjects.state_of_session(session), self._on_state)
        connection.subscribe(subjects.started(session, "*"), self._on_started)
        connection.subscribe(subjects.GONE, self._on_gone)
        connection.on_connected.append(self._on_connected)
        if self.config.output:
            connection.subscribe(subjects.output(session, "*"), OutputPrinter().on_message)
        self._block_reader = blocks = OrderedReader(
            connection, subjects.SESSION, subjects.backlog(session, "*"), self._on_block, header=HEADER
        )
        records = OrderedReader(connection, subjects.SESSION, subjects.outcomes(session), self._on_record)
        self._readers = [blocks, records]
        await blocks.start()
        await records.start()
        await blocks.caught_up()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(records.caught_up(), limits.ATTACH_S)

    async def say_goodbye(self) -> None:
        """See `Link`. The session goes on."""
        for reader in self._readers:
            reader.close()
        self.publisher.close()

    def leave(self) -> None:
        """What was submitted is stored. Who has a future sees its outcome for as long as this process goes on."""
        self.flush(limits.DETACH_S)
        self.wait_all(lambda: not ending.interpreter_ends())

    def abandon(self) -> None:
        """The same, when nobody has much time."""
        self.flush(limits.STORE_STUCK_S)
        self.close()

    def flush(self, seconds: float | None = None) -> bool:
        """Wait until everything that was submitted is stored. False when it is not, `seconds` later."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._unstored or self.broken is not None or not self.alive, seconds)

    @property
    def unstored(self) -> int:
        """Tasks submitted here that the engine has not said to have."""
        return self._unstored

    def break_all(self, error: Exception) -> None:
        """See `Link`."""
        with self.lock:
            self.broken = self.broken or error
            waiting = [task.cargo for task in self._not_stored()]
            waiting += [*self._futures.values(), *self.fetching]
            self._forget_all()
            self._own = self._unstored = 0
        for future in [*waiting, *self.left]:
            if future._left or not future.done():
                self.results.fail(future, left_behind(error) if future._left else error)
        with self._idle:
            self._idle.notify_all()

    def on_forked(self) -> None:
        """As `Driver.on_forked`."""
        self.lock, self._idle = threading.RLock(), threading.Condition()
        self.broken = error = errors.FarmClosed(
            "this process was forked from the one that attached to the session; attach again in it"
        )
        for future in [
            *self.fetching,
            *self.left,
            *self._futures.values(),
            *(task.cargo for task in self._not_stored()),
        ]:
            future.on_forked(error)
        self._forget_all()
        self.fetching.clear()

    def _not_stored(self) -> list[Task]:
        """What was submitted here and the engine has not answered for, in order."""
        waiting = (
            *(sent.tasks for sent in self.blocks.unanswered.values()),
            *(tasks for _, tasks in self.blocks.outgoing),
        )
        return [task for tasks in waiting for task in tasks] + [task for _, task in self._inbox]

    def _forget_all(self) -> None:
        for known in (self._inbox, self.blocks.outgoing, self.blocks.unanswered, self._futures, self._running):
            known.clear()

    # ---- submitting

    def submit(self, group: Group, task: Task) -> None:
        """Accept one task, from any thread."""
        with self.lock:
            self._inbox.append((group, task))
            self._own += 1
            self._unstored += 1
        if not self._awake:
            self._wake()

    def submit_many(self, group: Group, tasks: Iterable[Task]) -> None:
        """Accept many tasks of one group."""
        added = [(group, task) for task in tasks]
        with self.lock:
            self._inbox.extend(added)
            self._own += len(added)
            self._unstored += len(added)
        if not self._awake:
            self._wake()

    def _wake(self) -> None:
        self._awake = True
        self.loop.call_soon_threadsafe(self._pump)

    def _pump(self) -> None:
        self._awake = False
        with self.lock:
            while self._inbox:
                group, first = self._inbox.popleft()
                tasks, size = [first], first.size
                while self._inbox and self._inbox[0][0] is group and len(tasks) < limits.BLOCK_TASKS_MAX:
                    size += self._inbox[0][1].size
                    if size > limits.BATCH_BYTES_MAX:
                        break
                    tasks.append(self._inbox.popleft()[1])
                self.blocks.outgoing.append((group, tasks))
        self.blocks.send()

    def next_stored(self) -> asyncio.Event:
        """What is set when one more block is stored."""
        if self._stored is None:
            self._stored = asyncio.Event()
        return self._stored

    @property
    def newest(self) -> int:
        """The sequence of the last block that is known to be stored."""
        return max(self._newest, self.ledger.newest)

    def on_stored(self, sequence: int, msg_id: str) -> None:
        """This block's tasks will have outcomes, whatever becomes of this process."""
        late: list[Place] = []
        running: list[FarmFuture[Any]] = []
        with self.lock:
            tasks = self.blocks.take_stored(sequence, msg_id)
            if tasks is None:
                return  # known already, or everything was given up
            self._newest = max(self._newest, sequence)
            for index, task in enumerate(tasks):
                task.token, task.index = Token(sequence), index
                task.cargo.number = messages.number_of(sequence, index)
                task.state = TaskState.SENT
                task.cargo._entry, task.cargo._inputs = _STORED, ()
                place = sequence, index
                self._futures[place] = task.cargo
                if self.ledger.record_of(place):
                    late.append(place)
                elif place in self._running:
                    running.append(task.cargo)
            self._unstored -= len(tasks)
        if self._stored is not None:
            self._stored.set()
            self._stored = None
        for place in late:
            self._settle_later(place, self._futures.pop(place))
        for future in running:
            self._show_running(future)
        if not self._unstored:
            with self._idle:
                self._idle.notify_all()

    def check_room(self) -> None:
        """Raise `SessionFull` or `EngineFull` when no more work is taken."""
        state = self.state
        if state.stored_max and state.stored >= state.stored_max:
            raise errors.SessionFull(
                f"session {state.name!r} has stored {state.stored:,} bytes, and may store {state.stored_max:,}; open it with a "
                "larger stored_max, or go on in another session"
            )
        if self.publisher.stuck:
            raise errors.EngineFull

    # ---- outcomes

    def _on_block(self, sequence: int, _subject: str, said: bytes | memoryview) -> None:
        msg_id = self._block_reader.msg_id
        with self.lock:
            self.ledger.on_block(sequence, bytes(said).decode(), msg_id)
        self.on_stored(sequence, msg_id)  # of one from here: the answer may be on its way, or lost
        if sequence >= self._newest:
            with self._idle:
                self._idle.notify_all()

    def _on_record(self, sequence: int, _subject: str, data: bytes | memoryview) -> None:
        record = Record(data)
        with self.lock:
            self.ledger.on_record(sequence, record.settled.runs)
            if not self._futures and not self._running:
                return
            places = record.places()
            for place in places if self._running else ():
                self._running.pop(place, None)
            found = [(at, future) for at, place in enumerate(places)
                     if (future := self._futures.pop(place, None)) is not None]  # fmt: skip
        if found:
            record.open()
            self.settle(record, found)

    def settle(self, record: Record, wanted: Iterable[tuple[int, FarmFuture[Any]]]) -> None:
        """End futures with what a record says of them: (position in the record, future)."""
        body, settled = record.body, record.settled
        ready: list[tuple[FarmFuture[Any], Any]] = []
        for at, future in wanted:
            self._own -= future._entry is not None
            mark, attempts = record.mark(at)
            position, task = record.position(at), future._task
            if mark is None:
                entry = body.entries[position] if position < len(body.entries) else b""
                if type(entry) is tuple:
                    ready.append((future, entry[0]))
                elif entry is None:
                    name = task.group.profile.name if task is not None else ""
                    self.results.on_large(future, name, body.blobs.get(at))
                else:
                    self.results.take(future, entry, None)
            elif mark.kind is Kind.CANCELLED:
                future._withdraw()
            elif (cause := record.cause(at)) is not None:
                self._starve(future, cause)
            elif task is not None:
                task.attempts = attempts
                position = position if mark.kind is Kind.RAISED else -1
                self.results.end(core.Ended(task, mark, position, settled.node, settled.slot), body)
        settle(ready)
        self.wake_waiters()

    def _starve(self, future: FarmFuture[Any], place: Place) -> None:
        """The task did not run, because this other one has ended without a value. What its error was may still be on its way."""
        name = future._task.group.profile.name if future._task is not None else ""
        self.fetching.add(future)

        def end(cause: Future[Any]) -> None:
            starve(future, name, self.ledger.name(place), None if cause.cancelled() else cause.exception())
            self.on_fetched([future])

        self.future_at(place).add_done_callback(end)

    def _settle_later(self, place: Place, future: FarmFuture[Any]) -> None:
        """Its outcome is in a record that was read before."""
        self.fetching.add(future)
        self.records.want(self.ledger.record_of(place), place, future)

    def on_fetched(self, futures: Iterable[FarmFuture[Any]]) -> None:
        """Their records were read; what is still under way is a large value."""
        self.fetching.difference_update(future for future in futures if future._left or future.done())
        self.wake_waiters()

    def wake_waiters(self) -> None:
        """Tell `wait_all` that outcomes have come."""
        if not self.open:
            with self._idle:
                self._idle.notify_all()

    @property
    def open(self) -> int:
        """Tasks submitted here that wait for something."""
        return self._own + len(self.fetching)

    @property
    def counts(self) -> SessionState:
        """What the session has done so far."""
        return self.state

    def wait_all(self, worthwhile: Callable[[], bool] = lambda: True) -> None:
        """Return when every task submitted here has its outcome."""
        with self._idle:
            while self.open and self.broken is None and self.alive and worthwhile():
                self._idle.wait(limits.SIGNAL_S)
        if worthwhile():
            self.fetch_unserving()

    # ---- what is there

    def future_at(self, place: Place) -> FarmFuture[Any]:
        """The future of a task of the session, whoever submitted it; from any thread."""
        with self.lock:
            known = self._futures.get(place) or self._seen.get(place)
            if known is not None:
                return known
            future: FarmFuture[Any] = FarmFuture(self)
            future.number = messages.number_of(*place)
            future._task = task = Task(self.ledger.group(place), 0, future)
            task.token, task.index, task.state = Token(place[0]), place[1], TaskState.SENT
            self._seen[place] = future
            if self.broken is not None:
                self.results.fail(future, self.broken)
            elif self.ledger.record_of(place):
                self.fetching.add(future)
                self.loop.call_soon_threadsafe(self._settle_later, place, future)
            else:
                self._futures[place] = future
                if place in self._running:
                    self._show_running(future)
        return future

    def catch_up(self) -> None:
        """What was submitted here is in the ledger when this returns, unless the engine is away."""
        if self.on_its_thread() or not self._is_behind():
            return
        with self._idle:
            self._idle.wait_for(lambda: not self._is_behind() or self.broken is not None, limits.REQUEST_S)

    def _is_behind(self) -> bool:
        return bool(self._unstored) or self.ledger.newest < self._newest

    def _on_state(self, msg: Msg) -> None:
        self.state = read_state(msg.data)

    def _on_started(self, msg: Msg) -> None:
        notice = messages.read_started(msg.data)
        if not notice.place[0]:
            return  # a child
        with self.lock:
            if self.ledger.record_of(notice.place):
                return
            self._running[notice.place] = notice.node
            future = self._futures.get(notice.place)
        if future is not None:
            self._show_running(future)

    def _show_running(self, future: FarmFuture[Any]) -> None:
        task = future._task
        if task is not None and (node := self._running.get((int(task.token), task.index))) is not None:
            task.state = TaskState.RUNNING
            future.on_running(node)

    def _on_gone(self, msg: Msg) -> None:
        if self.session_id in messages.read_gone(msg.data).sessions:
            self._on_removed()

    def _on_removed(self) -> None:
        self.break_all(errors.SessionUnknown(f"session {self.state.name!r} was removed"))

    def _on_connected(self) -> None:
        self.spawn(self._look_again())

    async def _look_again(self) -> None:
        """After an outage: it may have been removed meanwhile, and be another one now."""
        request = messages.encode(SessionRequest(messages.PROTOCOL, VERSION, self.wanted.name))
        while self.broken is None:
            try:
                answer = await self.request("session", request)
            except errors.SessionUnknown:
                self._on_removed()
            except errors.EngineError as error:
                log.debug("session %s is asked for again: %s", self.state.name, error)
                await self.connection.wait_connected()
            else:
                if answer["session"] != self.session_id:
                    self._on_removed()
                return

    # ---- stopping

    def cancel(self, task: Task) -> bool:
        """Withdraw a task, from any thread. On the loop's own the answer cannot be waited for: False, and it is still asked for."""
        return self.stopper.stop([task], kill=False)[0]

    def kill(self, task: Task) -> bool:
        """The same, and stop it when it runs."""
        return self.stopper.stop([task], kill=True)[0]

    def cancel_waiting(self) -> None:
        """Cancel every task submitted here that does not run."""
        with self.lock:
            tasks = self._not_stored()
            tasks += [f._task for f in self._futures.values() if f._task is not None and f._entry is not None]
        self.stopper.stop(tasks, kill=False)

    def on_stopped(self, place: Place) -> None:
        """The caretaker has ended this task; the record of that is stored."""
        with self.lock:
            future = self._futures.pop(place, None)
            if future is not None:
                self._own -= future._entry is not None
        if future is not None:
            future._withdraw()
            self.wake_waiters()

    def keep(self, _source: Source, _large: Large) -> None:
        """What a call may need stays until the session is removed."""

    def forget(self, _entry: Any) -> None:
        """Stored arguments stay until the session is removed."""

    def on_failed(self, effect: core.Ended) -> None:
        """The caretaker knows."""

    def on_initializer_failed(self, _error: Exception) -> None:
        """Each task says so by itself; the session may have others."""
