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
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from farmhand import errors
from farmhand.client.futures import FarmFuture, settle
from farmhand.client.ledger import Ledger
from farmhand.client.link import DriverConfig, Link
from farmhand.client.output import OutputPrinter
from farmhand.client.records import Record, Records
from farmhand.client.results import KeptResults
from farmhand.client.sending import CodeSender, cut_large
from farmhand.code.values import pack_values
from farmhand.core import session as core
from farmhand.core.tasks import Group, Task, TaskState
from farmhand.engine import subjects
from farmhand.engine.ordered import OrderedReader
from farmhand.engine.stored import Publisher
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.ids import Token
from farmhand.model.messages import Profile
from farmhand.model.named import (
    HEADER,
    Block,
    Place,
    SessionRequest,
    SessionState,
    StopRequest,
    heading,
    read_state,
)
from farmhand.model.needs import Lane
from farmhand.model.outcome import Kind
from farmhand.model.retry import Retry

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
        self._stored: asyncio.Event
        self.publisher: Publisher
        self.sender: CodeSender
        self.results: KeptResults
        self.fetching: set[FarmFuture[Any]] = set()
        self._lock = threading.RLock()
        self._inbox: deque[tuple[Group, Task]] = deque()
        self._outgoing: deque[tuple[Group, list[Task]]] = deque()
        self._sending = False
        self._awake = False
        self._own = 0  # submitted here and without an outcome
        self._unstored = 0  # submitted here and not known to be stored
        self._idle = threading.Condition()
        self._futures: dict[Place, FarmFuture[Any]] = {}  # without an outcome
        self._seen: weakref.WeakValueDictionary[Place, FarmFuture[Any]] = weakref.WeakValueDictionary()
        self._running: dict[Place, str] = {}
        self._records: Records
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
        self._stored = asyncio.Event()  # the next block is
        self.publisher, self.sender, self.results = Publisher(connection), CodeSender(self), KeptResults(self)
        self._records = Records(connection, self.state.name)
        connection.subscribe(subjects.state_of_session(session), self._on_state)
        connection.subscribe(subjects.started(session, "*"), self._on_started)
        connection.subscribe(subjects.GONE, self._on_gone)
        if self.config.output:
            connection.subscribe(subjects.output(session, "*"), OutputPrinter().on_message)
        blocks = OrderedReader(
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
        """What was submitted is stored; nobody waits for the outcomes."""
        self.flush(limits.DETACH_S)

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
        with self._lock:
            self.broken = self.broken or error
            waiting = [task.cargo for _, task in self._inbox]
            waiting += [task.cargo for _, tasks in self._outgoing for task in tasks]
            waiting += [*self._futures.values(), *self.fetching]
            self._inbox.clear()
            self._outgoing.clear()
            self._futures.clear()
            self._own = self._unstored = 0
        for future in waiting:
            if not future.done():
                self.results.fail(future, error)
        with self._idle:
            self._idle.notify_all()

    def on_forked(self) -> None:
        """As `Driver.on_forked`."""
        self._lock, self._idle = threading.RLock(), threading.Condition()
        self.broken = error = errors.FarmClosed(
            "this process was forked from the one that attached to the session; attach again in it"
        )
        for future in [*self.fetching, *self._futures.values(), *(task.cargo for _, task in self._inbox)]:
            future.on_forked(error)
        self._inbox.clear()
        self._futures.clear()
        self.fetching.clear()

    # ---- submitting

    def submit(self, group: Group, task: Task) -> None:
        """Accept one task, from any thread."""
        with self._lock:
            self._inbox.append((group, task))
            self._own += 1
            self._unstored += 1
        if not self._awake:
            self._wake()

    def submit_many(self, group: Group, tasks: Iterable[Task]) -> None:
        """Accept many tasks of one group."""
        added = [(group, task) for task in tasks]
        with self._lock:
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
        with self._lock:
            while self._inbox:
                group, first = self._inbox.popleft()
                tasks, size = [first], first.size
                while self._inbox and self._inbox[0][0] is group and len(tasks) < limits.BLOCK_TASKS_MAX:
                    size += self._inbox[0][1].size
                    if size > limits.BATCH_BYTES_MAX:
                        break
                    tasks.append(self._inbox.popleft()[1])
                self._outgoing.append((group, tasks))
        if self._outgoing and not self._sending:
            self._sending = True
            self.spawn(self._send_all())

    async def _send_all(self) -> None:
        """Store the blocks in the order of their submission."""
        while self._outgoing:
            group, tasks = self._outgoing[0]
            try:
                for code in self.sender.missing(group.profile):
                    await self.sender.store_code(code)
                for task in tasks:
                    if (later := getattr(task.cargo._entry, "later", None)) is not None:
                        await later.stored()
            except errors.EngineError as error:
                log.warning("code or data for session %s is not stored yet: %s", self.state.name, error)
                await asyncio.sleep(limits.STORE_RETRY_S)
                continue
            await self.publisher.wait_room()
            if self._outgoing:
                self._outgoing.popleft()
                self._store(group, tasks)
        self._sending = False

    def _store(self, group: Group, tasks: Sequence[Task]) -> None:
        entries, refs = cut_large(task.cargo._entry for task in tasks)
        block = Block(messages.PROTOCOL, self.session_id, len(tasks), group.profile, group.lane, group.retry, refs)
        frame = messages.pack(block, pack_values(entries))
        self.sender.bytes_out += len(frame)
        subject, msg_id = subjects.backlog(self.session_id, group.lane_id), secrets.token_hex(8)
        headers = {HEADER: heading(len(tasks), group.profile.name)}

        def done(sequence: int, error: errors.EngineError | None) -> None:
            if error is None:
                self._on_stored(sequence, tasks)
            elif not self.closing.is_set():
                log.warning("session %s: a block is not stored yet: %s", self.state.name, error)
                self.loop.call_later(limits.STORE_RETRY_S, again)

        def again() -> None:
            self.publisher.publish(subject, frame, done, msg_id=msg_id, headers=headers)

        again()

    def _on_stored(self, sequence: int, tasks: Sequence[Task]) -> None:
        """They will have outcomes, whatever becomes of this process."""
        late: list[Place] = []
        with self._lock:
            for index, task in enumerate(tasks):
                task.token, task.index = Token(sequence), index
                task.cargo.number = messages.number_of(sequence, index)
                task.state = TaskState.SENT
                task.cargo._entry = _STORED
                place = sequence, index
                self._futures[place] = task.cargo
                if self.ledger.record_of(place):
                    late.append(place)
            self._unstored -= len(tasks)
        self._stored.set()
        self._stored = asyncio.Event()
        for place in late:
            self._settle_later(place, self._futures.pop(place))
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
        with self._lock:
            self.ledger.on_block(sequence, bytes(said).decode())

    def _on_record(self, sequence: int, _subject: str, data: bytes | memoryview) -> None:
        record = Record(data)
        with self._lock:
            self.ledger.on_record(sequence, record.settled.runs)
            if not self._futures:
                return
            found = [(at, future) for at, place in enumerate(record.places())
                     if (future := self._futures.pop(place, None)) is not None]  # fmt: skip
        if found:
            record.open()
            self._settle(record, found)

    def _settle(self, record: Record, wanted: list[tuple[int, FarmFuture[Any]]]) -> None:
        """End futures with what a record says of them: (position in the record, future)."""
        body, settled = record.body, record.settled
        ready: list[tuple[FarmFuture[Any], Any]] = []
        for at, future in wanted:
            self._own -= future._entry is not None
            mark, attempts = record.mark(at)
            position, task = record.position(at), future._task
            if task is not None:
                self._running.pop((int(task.token), task.index), None)
            if mark is None:
                entry = body.entries[position] if position < len(body.entries) else b""
                if type(entry) is tuple:
                    ready.append((future, entry[0]))
                else:
                    self.results.take(future, entry, body.blobs.get(at))
            elif mark.kind is Kind.CANCELLED:
                future._withdraw()
            elif task is not None:
                task.attempts = attempts
                position = position if mark.kind is Kind.RAISED else -1
                self.results.end(core.Ended(task, mark, position, settled.node, settled.slot), body)
        settle(ready)
        self.wake_waiters()

    def _settle_later(self, place: Place, future: FarmFuture[Any]) -> None:
        """Its outcome is in a record that was read before."""
        self.fetching.add(future)
        self.spawn(self._fetch(place, future))

    async def _fetch(self, place: Place, future: FarmFuture[Any]) -> None:
        try:
            record = await self._records.at(self.ledger.record_of(place))
        except errors.FarmhandError as error:
            self.results.fail(future, error)
        else:
            self._settle(record, [(record.places().index(place), future)])
        finally:
            self.fetching.discard(future)
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

    def wait_all(self) -> None:
        """Return when every task submitted here has its outcome."""
        with self._idle:
            while self.open and self.broken is None and self.alive:
                self._idle.wait(1.0)

    # ---- what is there

    def future_at(self, place: Place) -> FarmFuture[Any]:
        """The future of a task of the session, whoever submitted it; from any thread."""
        with self._lock:
            known = self._futures.get(place) or self._seen.get(place)
            if known is not None:
                return known
            future: FarmFuture[Any] = FarmFuture(self)
            future.number = messages.number_of(*place)
            future._task = task = Task(_nameless(self.ledger.name(place)), 0, future)
            task.token, task.index, task.state = Token(place[0]), place[1], TaskState.SENT
            self._seen[place] = future
            if self.ledger.record_of(place):
                self.fetching.add(future)
                self.loop.call_soon_threadsafe(self._settle_later, place, future)
            else:
                self._futures[place] = future
                if place in self._running:
                    task.state = TaskState.RUNNING
                    future.on_running(self._running[place])
        return future

    def _on_state(self, msg: Msg) -> None:
        self.state = read_state(msg.data)

    def _on_started(self, msg: Msg) -> None:
        notice = messages.read_started(msg.data)
        with self._lock:
            if self.ledger.record_of(notice.place):
                return
            self._running[notice.place] = notice.node
            future = self._futures.get(notice.place)
        if future is not None and (task := future._task) is not None:
            task.state = TaskState.RUNNING
            future.on_running(notice.node)

    def _on_gone(self, msg: Msg) -> None:
        if self.session_id in messages.read_gone(msg.data).sessions:
            self.break_all(errors.SessionUnknown(f"session {self.state.name!r} was removed"))

    # ---- stopping

    def cancel(self, task: Task) -> bool:
        """Withdraw a task, from any thread. On the loop's own the answer cannot be waited for: False, and it is still asked for."""
        return self._stop([task], kill=False)[0]

    def kill(self, task: Task) -> bool:
        """The same, and stop it when it runs."""
        return self._stop([task], kill=True)[0]

    def cancel_waiting(self) -> None:
        """Cancel every task submitted here that does not run."""
        with self._lock:
            tasks = [task for _, task in self._inbox]
            tasks += [task for _, tasks in self._outgoing for task in tasks]
            tasks += [f._task for f in self._futures.values() if f._task is not None and f._entry is not None]
        for task, ended in zip(tasks, self._stop(tasks, kill=False), strict=True):
            if ended:
                task.cargo._withdraw()

    def _stop(self, tasks: list[Task], *, kill: bool) -> list[bool]:
        if self.broken is not None or not self.alive:
            return [False] * len(tasks)
        if self.on_its_thread():
            self.spawn(self._ask_to_stop(tasks, kill=kill))
            return [False] * len(tasks)
        return asyncio.run_coroutine_threadsafe(self._ask_to_stop(tasks, kill=kill), self.loop).result()

    async def _ask_to_stop(self, tasks: list[Task], *, kill: bool) -> list[bool]:
        """Have the caretaker stop tasks, once they are stored. What it ended is no longer waited for here."""
        while any(not task.token for task in tasks) and self.broken is None:
            await self._stored.wait()
        places = [(int(task.token), task.index) for task in tasks]
        request = messages.encode(StopRequest(self.session_id, tuple(places), kill))
        try:
            answer: list[bool] = await self.request("session-stop", request)
        except (errors.FarmhandError, TimeoutError) as error:
            log.warning("session %s: nothing was stopped: %s", self.state.name, error)
            return [False] * len(tasks)
        with self._lock:
            for place, ended in zip(places, answer, strict=True):
                if ended and (future := self._futures.pop(place, None)) is not None:
                    self._own -= future._entry is not None
        self.wake_waiters()
        return answer

    def forget(self, _entry: Any) -> None:
        """Stored arguments stay until the session is removed."""

    def on_failed(self, effect: core.Ended) -> None:
        """The caretaker knows."""

    def on_initializer_failed(self, _error: Exception) -> None:
        """Each task says so by itself; the session may have others."""


def _nameless(name: str) -> Group:
    """What stands for the group of a task that somebody else has submitted."""
    return Group(Lane(), Profile("", name=name), Retry())
