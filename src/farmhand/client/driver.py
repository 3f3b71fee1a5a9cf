"""Drives one session: carries out what `core.session` decides, on the thread of a `Link`.

Any thread may submit, cancel or kill. Submitting only appends to an inbox and wakes the loop, so that the hot path takes no
lock; the core itself is touched under `_lock`. Callbacks of futures run outside the lock, on the loop's thread, as those of
the standard executors run on theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

from farmhand import errors
from farmhand.client.beat import beat_of
from farmhand.client.failures import Failures
from farmhand.client.futures import FarmFuture
from farmhand.client.inputs import Source, starve
from farmhand.client.lanes import Lanes
from farmhand.client.large import Large, remove_file
from farmhand.client.link import DriverConfig, Link, left_behind
from farmhand.client.output import OutputPrinter
from farmhand.client.results import Results
from farmhand.client.sending import Sender
from farmhand.core import session as core
from farmhand.core.feeding import Unfed
from farmhand.core.tasks import Counts, Group, Task
from farmhand.engine import subjects
from farmhand.engine.children import Children
from farmhand.engine.ordered import OrderedReader
from farmhand.engine.stored import Publisher
from farmhand.engine.streams import purge
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId, Token, session_id
from farmhand.model.messages import Control
from farmhand.model.needs import Lane
from farmhand.model.outcome import BlobRef
from farmhand.model.peers import readable_report

log = logging.getLogger("farmhand.client")


class Driver(Link):
    """One session. `start` returns when the farm has answered; `close` ends the session and the thread."""

    def __init__(self, config: DriverConfig) -> None:
        super().__init__(config)
        self.tag = ""  # in the names of large arguments
        self.session_id: str = session_id(secrets.token_hex(6), config.on_client_loss)
        self.core = core.Session(secrets.token_bytes(16), config.bound)
        self.bytes_in = 0
        self.publisher: Publisher
        self.sender: Sender
        self.results: Results
        self.children: Children
        self._lock = threading.RLock()
        self.numbers = itertools.count(1)  # for tasks; taken by any thread
        self._inbox: deque[tuple[Group, Task]] = deque()
        self._awake = False
        self._idle = threading.Condition()
        self._abandoned = False
        self._lanes = Lanes(self)
        self._kept: dict[weakref.ref[Source], Large] = {}  # what lies on the farm for sources
        self.fetching: set[FarmFuture[Any]] = set()  # whose tasks are done and whose values are on their way
        self._tick: asyncio.TimerHandle | None = None
        self._unpurged = 0
        self._failures = Failures(self)

    # ---- life

    shares_memory = True

    def connection_name(self) -> str:
        """See `Link`."""
        return f"session:{self.session_id}"

    async def begin(self) -> None:
        """See `Link`."""
        self._set_up()
        await self._reader.start()
        self._beat()

    def _set_up(self) -> None:
        self.publisher = Publisher(self.connection)
        self.sender = Sender(self)
        self.results = Results(self)
        self.results.children = self.children = Children(self, self.connection, self.session_id, self._lock)
        self._reader = OrderedReader(
            self.connection, subjects.RESULT, subjects.result(self.session_id, "*"), self._on_result, anew=True
        )
        connection = self.connection
        connection.subscribe(subjects.started(self.session_id, "*"), self._on_started)
        connection.subscribe(subjects.LANES, lambda msg: self._lanes.on_table(messages.read_lane_table(msg.data)))
        if self.config.output:
            connection.subscribe(subjects.output(self.session_id, "*"), OutputPrinter().on_message)
        connection.on_connected.append(self._on_reconnected)

    async def say_goodbye(self) -> None:
        """See `Link`. Stop and withdraw what is left, and tell the steward that this session is over."""
        connection = self.connection
        self._reader.close()
        if not (self._abandoned and self.config.on_client_loss == "finish"):
            connection.publish(subjects.control_of_session(self.session_id), messages.encode(Control(gone=True)))
            self._beat(ended=True)
        self.publisher.close()
        for large in list(self._kept.values()):
            if large.path:
                remove_file(large.path)

    def on_forked(self) -> None:
        """In a forked child: nothing that waits there would ever end, so everything ends with an error."""
        self._lock, self._idle = threading.RLock(), threading.Condition()
        self.broken = error = errors.FarmClosed(
            "this process was forked from the one that opened the farm; open a Farm of its own in it"
        )
        for future in [
            *self.fetching,
            *self.left,
            *(task.cargo for task in self.core.unfinished()),
            *(t.cargo for _, t in self._inbox),
        ]:
            future.on_forked(error)
        self._inbox.clear()
        self.fetching.clear()

    def abandon(self) -> None:
        """End the session without waiting: what waits is withdrawn, what runs fares as when this process dies."""
        self._abandoned = True
        self.cancel_waiting()
        self.close()

    # ---- submitting

    def submit(self, group: Group, task: Task) -> None:
        """Accept one task, from any thread."""
        self._inbox.append((group, task))
        if not self._awake:
            self._wake()

    def submit_many(self, group: Group, tasks: Iterable[Task]) -> None:
        """Accept many tasks of one group."""
        self._inbox.extend((group, task) for task in tasks)
        if not self._awake:
            self._wake()

    def _wake(self) -> None:
        self._awake = True
        self.loop.call_soon_threadsafe(self._pump)

    def _drain(self) -> None:
        """Move the inbox into the core. Needs the lock."""
        inbox, accepted = self._inbox, self.core.on_submitted
        while inbox:
            group, task = inbox.popleft()
            tasks = [task]
            while inbox and inbox[0][0] is group:
                tasks.append(inbox.popleft()[1])
            accepted(group, tasks)
            if group.lane_id not in self._lanes:
                self._lanes.need(group.lane)

    def _pump(self) -> None:
        """Take what was submitted and send what there is room for."""
        self._awake = False
        self.children.collect()
        with self._lock:
            self._drain()
            effects = self.core.plan(self.loop.time())
        self.carry_out(effects, None)
        self._arm()

    def carry_out(self, effects: list[core.Effect], body: Any) -> None:
        """Do what the core decided. `body` belongs to the report that caused it."""
        ended = False
        for effect in effects:
            match effect:
                case core.Send():
                    self.sender.send(effect.batch)
                case core.Delivered():
                    self.results.deliver(effect, body)
                    ended = True
                case core.Ended():
                    self.results.end(effect, body)
                    ended = True
                case Unfed():
                    of = effect.cause.group.profile.name
                    starve(effect.task.cargo, effect.task.group.profile.name, of, effect.cause.cargo._exception)
                    ended = True
                case core.Running():
                    effect.task.cargo.on_running(effect.node)
                case core.Stop():
                    control = Control(kill=tuple(effect.targets))
                    self.connection.publish(subjects.control_of_session(self.session_id), messages.encode(control))
                case core.CheckLane():
                    self.spawn(self._lanes.check(effect.lane))
        self.children.flush()
        if ended:
            self.wake_waiters()

    def wake_waiters(self) -> None:
        """Tell `wait_all` that outcomes have come."""
        if self.open == 0:
            with self._idle:
                self._idle.notify_all()

    def _arm(self) -> None:
        """Set the timer to the core's next deadline."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        due = self.core.next_deadline()
        if due is not None:
            self._tick = self.loop.call_at(max(due, self.loop.time() + 0.001), self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        with self._lock:
            effects = self.core.on_tick(self.loop.time())
        self.carry_out(effects, None)
        self._pump()

    # ---- lanes

    def on_slots(self, known: list[tuple[LaneId, int]]) -> None:
        """So many slots serve these lanes, and they exist."""
        with self._lock:
            for lane, slots in known:
                self.core.on_slots(lane, slots)
        self._pump()

    def fail_lane(self, lane: LaneId, error: Exception) -> None:
        """End every task that waits in a lane."""
        with self._lock:
            self._drain()
            tasks = [
                task for task in self.core.unfinished() if task.group.lane_id == lane and self.core.cancel(task)[0]
            ]
        for task in tasks:
            task.cargo.set_exception(error)
        self.children.flush()
        self.wake_waiters()
        self._pump()

    def on_lane_checked(self, lane: LaneId, asked_at: float, oldest: int) -> None:
        """See `core.session.Session.on_lane_checked`."""
        with self._lock:
            effects = self.core.on_lane_checked(lane, asked_at, oldest)
        self.carry_out(effects, None)
        self._pump()

    # ---- what nodes say

    def _on_result(self, _sequence: int, subject: str, data: bytes | memoryview) -> None:
        """A report from the RESULT stream, in order and never twice."""
        self.bytes_in += len(data)
        try:
            header, body = messages.split(data)
            report = readable_report(header)
        except errors.BadMessage as error:
            log.warning("a report cannot be read: %s", error)
            return
        if report.node != subject.rsplit(".", 1)[-1]:
            log.warning("%s reported in the name of %s; dropped", subject, report.node)
            return
        with self._lock:
            effects = self.core.on_report(report, self.loop.time())
        self.carry_out(effects, values := self.results.read(report, body))
        self.results.discard(values)
        self._forget_read(len(data))
        self._pump()

    def _forget_read(self, size: int) -> None:
        """Let the engine drop reports that have been read, many at a time."""
        self._unpurged += 1 + size // limits.PURGE_BYTES_EACH
        if self._unpurged >= limits.PURGE_EVERY:
            self._unpurged = 0
            self.spawn(self._purge())

    async def _purge(self) -> None:
        try:
            await purge(
                self.connection, subjects.RESULT, subjects.result(self.session_id, "*"), before=self._reader.last + 1
            )
        except (errors.EngineError, TimeoutError) as error:
            log.debug("reports were not purged: %s", error)

    def _on_started(self, msg: Msg) -> None:
        notice = messages.read_started(msg.data)
        with self._lock:
            effects = self.core.on_started(Token(notice.token), notice.index, notice.node)
        self.carry_out(effects, None)

    # ---- what the engine says about a publish

    def on_stored(self, token: Token, sequence: int) -> None:
        """It is accepted work now."""
        with self._lock:
            self.core.on_stored(token, sequence)

    def on_refused(self, token: Token, error: errors.EngineError) -> None:
        """The engine did not take a batch: its tasks wait for the next try."""
        if self.closing.is_set():
            return  # nobody waits for it any more
        log.warning("the engine did not take a batch: %s", error)
        with self._lock:
            effects = self.core.on_refused(token, self.loop.time(), full=isinstance(error, errors.EngineFull))
        self.carry_out(effects, None)
        self._pump()

    def _on_reconnected(self) -> None:
        self._beat(again=False)
        self._pump()

    # ---- stopping

    def cancel(self, task: Task) -> bool:
        """See `core.session.Session.cancel`; from any thread."""
        with self._lock:
            self._drain_from_anywhere()
            cancelled, effects = self.core.cancel(task)
        self._carry_out_soon(effects)
        if cancelled:
            self.wake_waiters()
        return cancelled

    def kill(self, task: Task) -> bool:
        """See `core.session.Session.kill`; from any thread."""
        with self._lock:
            self._drain_from_anywhere()
            ended, effects = self.core.kill(task)
        self._carry_out_soon(effects)
        if ended:
            self.wake_waiters()
        return ended

    def _drain_from_anywhere(self) -> None:
        """The core must know a task before it can stop it. Lanes are made by the pump that is due."""
        inbox = self._inbox
        while inbox:
            group, task = inbox.popleft()
            self.core.on_submitted(group, [task])
            if group.lane_id not in self._lanes:
                self.loop.call_soon_threadsafe(self._need_lane, group.lane)

    def _need_lane(self, lane: Lane) -> None:
        self._lanes.need(lane)
        self._pump()

    # ---- see `engine.children.Driving`

    def need_lane(self, lane: Lane) -> None:
        """Tasks wait for this lane."""
        self._lanes.need(lane)

    def pump(self) -> None:
        """Send what there is room for."""
        self._pump()

    def code_is_stored(self, hashes: list[str]) -> None:
        """The engine has this code."""
        self.sender.on_stored(hashes)

    def forget_blob(self, ref: BlobRef) -> None:
        """A large argument or result of this session is not needed any more."""
        self.results.forget(Large(ref.id, ref.size, ref.path))

    def _carry_out_soon(self, effects: list[core.Effect]) -> None:
        if self.core.feeding.starved and self.alive and not self._awake:
            self._wake()
        if effects and self.alive:
            self.loop.call_soon_threadsafe(self.carry_out, effects, None)
            self.loop.call_soon_threadsafe(self._arm)

    def forget(self, entry: Any) -> None:
        """Nobody needs this any more, if it is something large: of a task that was withdrawn, or a value; from any thread."""
        if type(entry) is not Large:
            return
        if entry.path:
            remove_file(entry.path)
        elif self.alive:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self.loop.call_soon_threadsafe(self.results.forget, entry)

    def cancel_waiting(self) -> None:
        """Cancel every task that is not known to run."""
        with self._lock:
            self._drain_from_anywhere()
            tasks = self.core.unfinished()
        for task in tasks:
            task.cargo.cancel()

    @property
    def open(self) -> int:
        """Futures that wait for something."""
        return self.core.open + len(self._inbox) + len(self.fetching)

    def keep(self, source: Source, large: Large) -> None:
        """Remove this when the source dies. By a weak reference, for an object can be found by one while its `__del__` runs."""
        self._kept[weakref.ref(source, self._on_unneeded)] = large

    def _on_unneeded(self, ref: weakref.ref[Source]) -> None:
        self.forget(self._kept.pop(ref, None))

    def keeps(self, blob_id: str) -> bool:
        """See `Link`."""
        return any(large.id == blob_id for large in list(self._kept.values()))

    def wait_all(self) -> None:
        """Return when every task has its outcome. Large values come along, unless they have served other calls."""
        self._wait_idle()
        self.fetch_unserving()

    def _wait_idle(self) -> None:
        with self._idle:
            while self.open and self.broken is None and self.alive:
                self._idle.wait(1.0)  # the pause only matters if the thread itself dies

    def break_all(self, error: Exception) -> None:
        """The session cannot go on: every future ends with `error`."""
        with self._lock:
            self.broken = self.broken or error
            while self._inbox:
                group, task = self._inbox.popleft()
                self.core.on_submitted(group, [task])
            tasks = self.core.unfinished()
        for task in tasks:
            future: FarmFuture[Any] = task.cargo
            with self._lock:
                alive = self.core.cancel(task)[0] or not future.done()
            if alive and not future.done():
                future.set_exception(error)
        for future in [*self.fetching, *self.left]:
            self.results.fail(future, left_behind(error) if future._left else error)
        with self._idle:
            self._idle.notify_all()

    def leave(self) -> None:
        """Nobody waits any more: what was submitted still ends."""
        self.wait_all()

    def check_room(self) -> None:
        """Raise `EngineFull` while the engine has no space for new work."""
        if self.core.full or self.publisher.stuck:
            raise errors.EngineFull

    @property
    def counts(self) -> Counts:
        """What this session has done so far."""
        return self.core.counts

    def on_failed(self, effect: core.Ended) -> None:
        """See `Link`. The engine keeps it for a while."""
        self._failures.note(effect)

    def on_initializer_failed(self, error: Exception) -> None:
        """No task of this session can run."""
        log.critical("the initializer failed, so nothing more can run here: %s", error)
        self.break_all(error)

    # ---- heartbeat

    def _beat(self, *, ended: bool = False, again: bool = True) -> None:
        beat = beat_of(self, ended=ended)
        self.connection.publish(subjects.beat_of_session(self.session_id), messages.encode(beat))
        if again and not ended:
            self.loop.call_later(limits.BEAT_S, self._beat)
