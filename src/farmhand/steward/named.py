"""One named session, looked after: reads its blocks, sends them as work, turns reports into records.

The decisions are `core.named`'s. A body is never unpickled here: its entries are cut out of one message and put into another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from farmhand import errors
from farmhand.core import named, session
from farmhand.core.family import Child
from farmhand.core.settling import Store
from farmhand.core.supply import Seek
from farmhand.core.tasks import Batch, Task
from farmhand.engine import streams, subjects
from farmhand.engine.ordered import OrderedReader
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId, Token
from farmhand.model.messages import Control, SessionBeat, Work
from farmhand.model.named import About, Block, Failed, Place, SessionState, Settled, read_block, read_settled, runs_of
from farmhand.model.needs import Lane
from farmhand.model.outcome import STOPPED, BlobRef
from farmhand.model.peers import readable_report, readable_work
from farmhand.model.version import VERSION
from farmhand.steward.blocks import Blocks
from farmhand.steward.care import Care
from farmhand.steward.parents import Parents
from farmhand.steward.supplies import NONE, Freight, Supplies, cut, is_sound

log = logging.getLogger("farmhand.steward")

_join: Final = msgspec.msgpack.Encoder().encode


class _Report(NamedTuple):
    """What a report carries, and its sequence in the stream."""

    sequence: int
    entries: list[Any]
    refs: dict[int, BlobRef]


class Kept:
    """One session. `start` reads what it left; `close` lets go of it. `noted`: when `about` was stored."""

    def __init__(self, about: About, care: Care, noted: float) -> None:
        self.about = about
        self.id = about.session
        self.touched = self.noted = noted
        self.core = named.NamedSession(secrets.token_bytes(16))
        self._care = care
        self._loop = asyncio.get_running_loop()
        self._parents: Parents | None = None  # once it is known what runs
        self._seeks: deque[Seek] = deque()
        self._seeking = False
        self._supplies = Supplies(care.connection, care.publisher, self.id, self._wait_record)
        self._lanes: set[LaneId] = set()
        self._readers: list[OrderedReader | Blocks] = []
        self._early: list[tuple[int, bytes | memoryview]] | None = []  # reports, until the session has been started
        self._unsettled: dict[int, int] = {}  # records that are not stored yet, by the report's sequence
        self._purgeable = self._purged = 0
        self._read = 0  # reports
        self._tick: asyncio.TimerHandle | None = None
        self._said: bytes = b""
        self._closed = False
        self.ready = asyncio.Event()
        self._decided = 0  # records
        self._storing: set[int] = set()  # those that are not stored yet, by their number
        self._news: asyncio.Event | None = None  # a block was read, or a record stored
        self._started = care.connection.subscribe(subjects.started(self.id, "*"), self._on_started)

    # ---- life

    async def start(self) -> None:
        """Find out where the session stands, and go on. Tried again until the engine has answered everything."""
        while not self._closed:
            try:
                await self._start()
                return
            except (errors.EngineError, TimeoutError) as error:
                log.warning("session %s cannot be read yet: %s", self.about.name, error)
                self._stop_reading()
                await asyncio.sleep(limits.STORE_RETRY_S)
                await self._care.connection.wait_connected()

    async def _start(self) -> None:
        connection, session_id = self._care.connection, self.id
        last = await streams.last_message(connection, subjects.SESSION, subjects.outcomes(session_id))
        settled = read_settled(messages.split(last.data)[0]) if last is not None else None
        newest = await streams.last_message(connection, subjects.SESSION, subjects.backlog(session_id, "*"))
        self.touched = max([self.touched, *(message.at for message in (last, newest) if message is not None)])
        self.core = core = named.NamedSession(secrets.token_bytes(16), settled)
        self._early, self._unsettled, self._lanes = [], {}, set()
        records = self._reader(subjects.SESSION, subjects.outcomes(session_id), self._on_old_record, core.low)
        await records.start()
        await records.caught_up()
        records.close()
        await self._claim_work()
        reports = self._reader(subjects.RESULT, subjects.result(session_id, "*"), self._on_report)
        await reports.start()
        await reports.caught_up()
        for _, data in self._early:
            core.claim_report(readable_report(messages.split(data)[0]))
        blocks = Blocks(connection, session_id, self._on_block, core.copies, core.low)
        self._readers.append(blocks)
        await blocks.start()
        await blocks.caught_up()
        early, self._early = self._early, None
        self._parents = Parents(self, self._care)
        self._do(core.start(self._loop.time()), None)
        for sequence, data in early:
            self._on_report(sequence, "", data)
        self.ready.set()

    def _reader(self, stream: str, subject: str, callback: Callable[[int, str, bytes | memoryview], None],
                first: int = 1) -> OrderedReader:  # fmt: skip
        reader = OrderedReader(self._care.connection, stream, subject, callback, first)
        self._readers.append(reader)
        return reader

    def _stop_reading(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers.clear()

    async def _claim_work(self) -> None:
        """Batches that an earlier caretaker has sent, and that are not acknowledged."""
        at = 1
        while message := await streams.message_at(
            self._care.connection, subjects.WORK, at, subjects.work("*", self.id)
        ):
            self.core.claim_work(readable_work(messages.split(message.data)[0]), message.sequence)
            at = message.sequence + 1

    def close(self) -> None:
        """Let go of it: it was removed, or the steward ends."""
        self._closed = True
        self._started.close()
        if self._parents is not None:
            self._parents.close()
        self._stop_reading()
        if self._tick is not None:
            self._tick.cancel()
        self._tell()

    async def _wait_until(self, true: Callable[[], bool]) -> None:
        """Return when it is so. Raises `SessionUnknown` when the session was removed."""
        while not true():
            if self._closed:
                raise errors.SessionUnknown(f"session {self.about.name!r} was removed")
            if self._news is None:
                self._news = asyncio.Event()
            await self._news.wait()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    # ---- what the engine has

    def _on_old_record(self, sequence: int, _subject: str, data: bytes | memoryview) -> None:
        self.core.on_settled(read_settled(messages.split(data)[0]), len(data), sequence)

    def _on_block(self, sequence: int, subject: str, data: bytes | memoryview, name: str) -> range:
        """See `Blocks`."""
        try:
            header, body = messages.split(data)
            block, entries = read_block(header), cut(body)
        except (errors.BadMessage, msgspec.MsgspecError) as error:
            log.warning("block %d of session %s cannot be read: %s", sequence, self.about.name, error)
            return range(0)
        if not is_sound(block, entries) or block.lane.id != subject.rpartition(".")[2]:
            log.warning("block %d of session %s is not what its header says; left out", sequence, self.about.name)
            return range(0)
        if missing := self.core.copies.missing(block.after):
            return missing
        if self._early is None:
            self._touch()
        self.core.on_block(
            sequence, block, entries, len(data) + sum(ref.size for ref in block.blobs) - block.counted, name
        )
        self.need_lane(block.lane)
        self._tell()
        self.go_on()
        return range(0)

    def need_lane(self, lane: Lane) -> None:
        """Tasks wait for this lane."""
        if lane.id not in self._lanes:
            self._lanes.add(lane.id)
            self._care.spawn(self._prepare_lane(lane))

    async def _prepare_lane(self, lane: Lane) -> None:
        while not self._closed:
            try:
                slots = await self._care.need_lane(lane)
            except (errors.EngineError, TimeoutError):
                await asyncio.sleep(limits.STORE_RETRY_S)
                continue
            self.on_slots([(lane.id, slots)])
            return

    def on_slots(self, known: Iterable[tuple[LaneId, int]]) -> None:
        """So many slots serve these lanes."""
        for lane, slots in known:
            self.core.core.on_slots(lane, slots)
        self.go_on()

    async def _fetch(self, sequence: int) -> None:
        core = self.core
        try:
            message = await streams.message_at(self._care.connection, subjects.SESSION, sequence)
        except (errors.EngineError, TimeoutError) as error:
            log.warning("block %d of session %s was not read: %s", sequence, self.about.name, error)
            await asyncio.sleep(limits.STORE_RETRY_S)
            core.on_not_fetched(sequence)
        else:
            if message is None:
                log.error("block %d of session %s is gone from the engine", sequence, self.about.name)
                return
            header, body = messages.split(message.data)
            core.on_fetched(sequence, read_block(header), cut(body))
        self.go_on()

    # ---- carrying out

    def go_on(self) -> None:
        """Do what follows from what has happened."""
        if self._parents is not None:
            self._parents.collect()
        self._do(self.core.plan(self._loop.time()), None)
        self._arm()

    def carry_out(self, effects: list[session.Effect]) -> None:
        """Do what the core decided."""
        self._do(self.core.settle(effects), None)

    def _do(self, effects: Iterable[named.Effect], report: _Report | None) -> None:
        for effect in effects:
            match effect:
                case session.Send():
                    self._send(effect.batch)
                case Store():
                    # What was decided without a report makes later ones stale: those must stay as long, too.
                    self._record(effect, report or _Report(self._purgeable + 1, [], {}))
                case Seek():
                    self._seeks.append(effect)
                    if not self._seeking:
                        self._seeking = True
                        self._care.spawn(self._seek_all())
                case session.Stop():
                    control = Control(kill=tuple(effect.targets))
                    self._care.connection.publish(subjects.control_of_session(self.id), messages.encode(control))
                case session.CheckLane():
                    self._care.spawn(self._check_lane(effect.lane))
                case named.Fetch():
                    self._care.spawn(self._fetch(effect.block))
                case session.Delivered() | session.Ended() if self._parents is not None:
                    found = report or _Report(0, [], {})
                    self._parents.on_ended(effect, found.entries, found.refs)
                case session.Running() if isinstance(effect.task.cargo, Child):
                    effect.task.cargo.on_running(effect.node)
                case _:
                    pass  # that a task runs is told to its clients by its node; outcomes are in records
        if self._parents is not None:
            self._parents.flush()

    def _record(self, effect: Store, report: _Report) -> None:
        """Store a record, and keep what somebody needs of it."""
        sequence, entries = report.sequence, report.entries
        body = _join([entries[at] if at < len(entries) else NONE for at in effect.positions])
        self._unsettled[sequence] = self._unsettled.get(sequence, 0) + 1
        self._decided += 1
        self._storing.add(self._decided)
        self._store(effect.settled, body, secrets.token_hex(8), sequence, self._decided)
        for place, at, blob in effect.wanted:
            self._supplies.keep(place, entries[at] if at < len(entries) else NONE, blob)
        for ended in effect.ended:
            self._note(ended)

    def _send(self, batch: Batch) -> None:
        tasks = [task for task in batch.tasks if task is not None]
        freight = Freight(batch, [], {}) if batch.group.depth else self._supplies.at_hand(batch, tasks)
        if freight is None:
            self._care.spawn(self._send_later(batch, tasks))
        else:
            self._publish(batch, tasks, freight)

    async def _send_later(self, batch: Batch, tasks: list[Task]) -> None:
        """The values that it needs are in the engine."""
        with contextlib.suppress(errors.SessionUnknown):
            freight = await self._supplies.collect(batch, tasks)
            if not self._closed:
                self._publish(batch, tasks, freight)

    def _publish(self, batch: Batch, tasks: list[Task], freight: Freight) -> None:
        group = batch.group
        origin = runs_of(task.cargo.place for task in tasks) if not group.depth else ()
        numbers = messages.span_of([task.cargo.number for task in tasks]) if group.depth else ()
        refs = [msgspec.structs.replace(task.cargo.blob, index=at) for at, task in enumerate(tasks) if task.cargo.blob]
        work = Work(
            messages.PROTOCOL, self.id, batch.token, batch.count, group.profile, max(0.0, group.mean) * batch.count,
            any(task.careful for task in tasks), batch.attempt, (*refs, *freight.refs), origin, numbers, group.depth,
            tuple(freight.feeds),
        )  # fmt: skip

        def done(sequence: int, error: errors.EngineError | None) -> None:
            if error is None:
                self.core.core.on_stored(batch.token, sequence)
            elif not self._closed:
                full = isinstance(error, errors.EngineFull)
                self._do(self.core.on_refused(batch.token, self._loop.time(), full=full), None)
                self._arm()

        entries = [task.cargo.entry if task.cargo.blob is None else NONE for task in tasks]
        frame = messages.pack(work, _join([*entries, *freight.entries]))
        self._care.publisher.publish(subjects.work(group.lane_id, self.id), frame, done, msg_id=f"{batch.token:x}")

    async def _seek_all(self) -> None:
        """Who is next most likely needs the same record, and then goes into the same message."""
        while self._seeks and not self._closed:
            wanted, core = self._seeks.popleft(), self.core
            record, kind = await self._supplies.seek(wanted.place, wanted.after)
            if not record:
                log.error("task %d.%d of session %s has no outcome, and others need it", *wanted.place, self.about.name)
            core.on_found(wanted.place, record, kind)
            if not self._seeks or self._seeks[0].after != wanted.after:
                self.go_on()
        self._seeking = False

    async def _wait_record(self, place: Place) -> int:
        await self._wait_until(lambda: self.core.record_of(place) > 0)
        return self.core.record_of(place)

    async def _check_lane(self, lane: LaneId) -> None:
        asked_at = self._loop.time()
        try:
            oldest = await streams.oldest_work(self._care.connection, lane, self.id)
        except (errors.EngineError, TimeoutError):
            return
        self._do(self.core.on_lane_checked(lane, asked_at, oldest), None)
        self.go_on()

    def _arm(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        due = self.core.core.next_deadline()
        if due is not None and not self._closed:
            self._tick = self._loop.call_at(max(due, self._loop.time() + 0.001), self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        self._do(self.core.on_tick(self._loop.time()), None)
        self.go_on()

    # ---- outcomes

    def _on_started(self, msg: Msg) -> None:
        """A node says that a task runs."""
        notice = messages.read_started(msg.data)
        self.carry_out(self.core.core.on_started(Token(notice.token), notice.index, notice.node))

    def _on_report(self, sequence: int, _subject: str, data: bytes | memoryview) -> None:
        if self._early is not None:
            self._early.append((sequence, data))
            return
        try:
            header, body = messages.split(data)
            report = readable_report(header)
            entries = cut(body) if len(body) else []
        except (errors.BadMessage, msgspec.MsgspecError) as error:
            log.warning("a report cannot be read: %s", error)
            return
        self._touch()
        if self._parents is not None:
            self._parents.discard(report)
        refs = {ref.index: ref for ref in report.blobs}
        self._do(self.core.on_report(report, self._loop.time()), _Report(sequence, entries, refs))
        self._purgeable, self._read = sequence, self._read + 1
        if self._read % limits.SETTLED_PURGE == 0:
            self._care.spawn(self._purge())
        self.go_on()

    def _store(self, settled: Settled, body: bytes, msg_id: str, sequence: int, number: int) -> None:
        """Store a record. It is tried until it is stored: the tasks have no other outcome any more."""
        frame = messages.pack(self.core.stamp(settled), body)

        def done(record: int, error: errors.EngineError | None) -> None:
            if self._closed:
                return
            if error is not None:
                log.warning("a record of session %s was not stored (%s), trying again", self.about.name, error)
                self._loop.call_later(limits.STORE_RETRY_S, self._store, settled, body, msg_id, sequence, number)
                return
            self._unsettled[sequence] -= 1
            if not self._unsettled[sequence]:
                del self._unsettled[sequence]
            self.core.on_settled(settled, len(frame), record)
            self._storing.discard(number)
            self._tell()
            if self.core.freed:
                self.go_on()

        self._care.publisher.publish(subjects.outcomes(self.id), frame, done, msg_id=msg_id)

    def _note(self, ended: session.Ended) -> None:
        """Keep a task that ended badly, for who wants to run it again."""
        task = ended.task
        if ended.mark.kind in STOPPED:
            return
        group, cargo = task.group, task.cargo
        blobs = () if cargo.blob is None else (BlobRef(0, cargo.blob.id, cargo.blob.size),)
        block = Block(messages.PROTOCOL, self.id, 1, group.profile, group.lane, group.retry, blobs)
        lacking = "it has values of other tasks as arguments: submit it again in its session" if cargo.inputs else ""
        failed = Failed(
            messages.PROTOCOL, self.id, self.about.name, time.time(), ended.mark, ended.node, ended.slot, task.attempts, block,
            lacking,
        )  # fmt: skip
        self._care.publisher.publish(
            subjects.failed(self.id), messages.pack(failed, _join([cargo.entry])), lambda _sequence, _error: None,
            msg_id=".".join(map(str, (self.id, *cargo.place, "failed"))),
        )  # fmt: skip

    async def _purge(self) -> None:
        """Let the engine forget the reports that are in stored records."""
        below = min([self._purgeable + 1, *self._unsettled])
        if below <= self._purged:
            return
        try:
            subject = subjects.result(self.id, "*")
            await streams.purge(self._care.connection, subjects.RESULT, subject, before=below)
            self._purged = below
        except (errors.EngineError, TimeoutError) as error:
            log.debug("reports were not purged: %s", error)

    async def stop(self, places: Iterable[Place], *, kill: bool) -> list[bool]:
        """As `NamedSession.stop`. Returns when that is stored, and so would outlive the steward.

        Raises `SessionUnknown`; `TimeoutError` when there are no such tasks.
        """
        self._touch()
        wanted = list(places)
        newest = max((block for block, _ in wanted), default=0)  # who asks may have heard sooner that it is stored
        await asyncio.wait_for(self._wait_until(lambda: self.core.read_to >= newest), limits.REQUEST_S)
        before = self._decided
        ended, effects = self.core.stop(wanted, kill=kill)
        self._do(effects, None)
        mine = set(range(before + 1, self._decided + 1))
        self.go_on()
        await self._wait_until(lambda: not mine & self._storing)
        return ended

    # ---- looking

    def _touch(self) -> None:
        self.touched = time.time()

    def state(self) -> SessionState:
        """How far it is."""
        core, counts, about = self.core, self.core.counts, self.about
        return SessionState(
            about.name, self.id, core.submitted, counts.done, counts.failed, counts.cancelled, core.running, core.bytes,
            about.stored_max, about.result_max, about.created, self.touched, about.keep, self.ready.is_set(),
        )  # fmt: skip

    def beat(self) -> SessionBeat:
        """The session as any other's heartbeat shows it; and what changed is told to whoever is attached."""
        if (said := messages.encode(state := self.state())) != self._said:
            self._said = said
            self._care.connection.publish(subjects.state_of_session(self.id), said)
        if self._purgeable >= self._purged and not state.open and not self._storing:
            self._care.spawn(self._purge())
        counts, used = self.core.counts, self.core.core.counts
        return SessionBeat(
            messages.PROTOCOL, VERSION, self.id, "", 0, self.about.name, "finish", max(0, state.open - state.running),
            state.running, counts.done, counts.failed, used.cpu, used.seconds, lanes=tuple(self._lanes),
        )  # fmt: skip
