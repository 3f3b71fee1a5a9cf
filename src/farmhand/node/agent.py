"""The node agent: takes work from the lanes it satisfies, gives it to its slots, reports how it ended.

The decisions are `core.holding`'s; this file carries them out. No user code runs here, so heartbeats and renewals are
never late on account of a task. What blocks (files, process tables) is small or goes to a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from farmhand import errors
from farmhand.core import holding
from farmhand.engine import blobs, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.stored import Publisher
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId
from farmhand.model.messages import Report, Work
from farmhand.model.outcome import Kind, Mark
from farmhand.model.peers import mismatch, readable_work
from farmhand.node import processes, slotwire
from farmhand.node.beat import beat_of, holdings_of
from farmhand.node.cargo import Cargo
from farmhand.node.children import Children
from farmhand.node.codecache import CodeCache
from farmhand.node.config import Config
from farmhand.node.data import Spool
from farmhand.node.dressing import Dressing
from farmhand.node.lanes import Lanes
from farmhand.node.printing import Printing
from farmhand.node.slotproc import Exit, SlotProcess
from farmhand.node.venvs import Place
from farmhand.node.watch import Watch

log = logging.getLogger("farmhand.node")

_read_result = msgspec.msgpack.Decoder(slotwire.SlotResult).decode
_read_slot_output = msgspec.msgpack.Decoder(slotwire.SlotOutput).decode


class Agent:
    """One incarnation of a node. `run` returns True when the steward has disowned it and a new one must take its place."""

    def __init__(self, config: Config, new_slot: Callable[..., SlotProcess] = SlotProcess) -> None:
        """`new_slot` makes a slot; it takes what `SlotProcess` takes."""
        self.config = config
        self._new_slot = new_slot
        self.incarnation = secrets.token_hex(6)
        self._taken = 0  # messages
        self._epoch = ""  # of the farm, see `Connection.epoch`
        self.holder = holding.Holder(config.slots)
        self.cache = CodeCache(config.cache)
        self.runs = self.failures = self.bytes_in = self.bytes_out = 0
        self.cpu_seconds = self.total_seconds = 0.0
        self.slots: dict[int, SlotProcess] = {}
        self.watch = Watch(self)
        self.dressing = Dressing(self)
        self._printing = Printing(self)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[bool] = self._loop.create_future()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._respawn_s: dict[int, float] = {}
        self.connection: Connection
        self.publisher: Publisher
        self.spool: Spool
        self.lanes: Lanes
        self.children: Children

    # ---- life

    async def run(self) -> bool:
        """Work until `leave` is through or the steward disowns this incarnation."""
        config = self.config
        config.options.name = f"node:{config.node}:{self.incarnation}"
        starting = self._loop.create_task(self._start_slots())  # they need no engine
        try:
            self.connection = await Connection.open(config.options, retry_forever=True)
            self._epoch = self.connection.epoch
            self.publisher = Publisher(self.connection)
            self.spool = Spool(config.spool, self.connection, self.publisher)
            self.lanes = Lanes(self)
            self.children = Children(self)
            self._subscribe()
            self._beat()  # before the first work: the steward must know whose loss would be its loss
            await self.lanes.refresh()
            self._every(limits.BEAT_S, "beat", self._beat)
            self._every(limits.OVERDUE_S / 2, "tick", self._on_tick)
            self._every(limits.RENEW_S, "renew", self._renew)
            self._every(limits.LOST_PULL_S / 2, "pulls", self.lanes.give_up_lost)
            self._every(limits.MEMORY_CHECK_S, "memory", self.watch.check_memory)
            self.dressing.start_collecting()
            await starting
            return await self._ended
        finally:
            starting.cancel()
            await self._close()

    async def _close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        for slot in self.slots.values():
            slot.close()
        self.dressing.venvs.close()
        if not self.config.in_process:
            for stray in processes.adopted():
                processes.kill(stray)
        if hasattr(self, "connection"):
            await self.connection.close()

    def abandon(self) -> None:
        """The supervisor is gone: kill every slot with what it started, and go."""
        self.dressing.venvs.close()
        for slot in self.slots.values():
            slot.kill_tree()
        for stray in processes.adopted():
            processes.kill(stray)
        os._exit(0)

    async def leave(self) -> None:
        """Take nothing new, finish for the grace, hand the rest back, say goodbye."""
        if self.holder.leaving:
            if not self._ended.done():
                self._ended.set_result(False)
            return
        log.info("leaving: no new work, up to %g s for what runs", self.config.grace)
        self.carry_out(self.holder.on_leave())
        self._beat()
        await self._wait_quiet(self.config.grace)
        self.carry_out(self.holder.on_grace_over())
        await self._wait_quiet(limits.REQUEST_S)
        if self.connection.connected:
            self.connection.publish(f"node.{self.config.node}.bye", self.incarnation.encode())
        if not self._ended.done():
            self._ended.set_result(False)

    async def _wait_quiet(self, seconds: float) -> None:
        deadline = self._loop.time() + seconds
        while not self.holder.quiet and self._loop.time() < deadline:  # noqa: ASYNC110 - the holder is pure, it has no events
            await asyncio.sleep(0.02)

    def _every(self, seconds: float, name: str, action: Any) -> None:
        def fire() -> None:
            self._timers[name] = self._loop.call_later(seconds, fire)
            action()

        self._timers[name] = self._loop.call_later(seconds, fire)

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine beside; its failure is logged, never lost."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("background work failed", exc_info=error)

    def _subscribe(self) -> None:
        connection, node = self.connection, self.config.node
        connection.subscribe(subjects.control_of_node(node), self._on_node_control)
        connection.subscribe(subjects.control_of_session("*"), self._on_session_control)
        connection.subscribe(subjects.LANES, lambda msg: self.lanes.on_table(messages.read_lane_table(msg.data)))
        connection.subscribe(subjects.GONE, self._on_gone)
        connection.on_connected.append(self._on_reconnected)
        connection.on_servers.append(self.lanes.ask_again)

    def _on_reconnected(self) -> None:
        if self.connection.epoch != self._epoch:  # what we hold is of a time that never was; sequences are used again
            self._start_afresh("the farm was put back from a backup")
            return
        self._beat()
        self.lanes.ask_again()
        self.spawn(self.lanes.refresh())

    # ---- slots

    async def _start_slots(self) -> None:
        await asyncio.gather(*(self.start_slot(number) for number in range(self.config.slots)))

    async def start_slot(self, number: int, place: Place | None = None) -> bool:
        """A new process for a slot, in an environment or the node's own Python. False: it is tried again later, in the latter."""
        config = self.config
        self.slots[number] = slot = self._new_slot(
            number, config.spool, config.cache, self._on_slot_frame, self.on_slot_exit, place
        )
        try:
            await slot.start()
        except OSError as error:  # no memory, no descriptors: later there may be some
            log.warning("slot %d could not be started: %s", number, error)
            self._start_again(slot, limits.SLOT_RESTART_MAX_S)
            return False
        return True

    def _start_again(self, slot: SlotProcess, wait: float, place: Place | None = None) -> None:
        """Later, unless it is not wanted by then: a spare may be given up, and its number be another one's."""
        number = slot.number

        def start() -> None:
            wanted = number < self.config.slots or number in self.holder.lending.spares
            if wanted and self.slots.get(number) is slot and not self.holder.leaving and not self._ended.done():
                self.spawn(self.start_slot(number, place))

        self._loop.call_later(wait, start)

    def now(self) -> float:
        """The time that the holder is told."""
        return self._loop.time()

    def _on_slot_frame(self, slot: SlotProcess, kind: int, payload: bytes) -> None:
        if self.slots.get(slot.number) is not slot:
            return  # the last words of a process that has been replaced
        if kind == slotwire.RESULT:
            self._on_result(slot, payload)
        elif kind == slotwire.OUTPUT:
            self._on_output(slot, payload)
        elif kind == slotwire.RETRACTED:
            token, first = map(int, payload.split())
            self.carry_out(self.holder.on_retracted(slot.number, token, first, self._loop.time()))
        elif kind in (slotwire.SAY, slotwire.WAIT):
            self.children.on_frame(slot, kind, payload)
        elif kind == slotwire.READY and payload != slotwire.OWN_VERSION:
            self._on_other_version(slot, payload)
        elif kind == slotwire.READY:
            slot.ready = True
            self._respawn_s.pop(slot.number, None)
            self.carry_out(self.holder.on_slot_ready(slot.number, self._loop.time()))

    def _on_other_version(self, slot: SlotProcess, payload: bytes) -> None:
        """Farmhand was updated under us: whoever keeps this process alive starts it again, with the new one."""
        theirs, ours = payload.decode(errors="replace"), slotwire.OWN_VERSION.decode()
        log.error("slot %d runs Farmhand %s, its agent %s: Farmhand was updated while this node ran; it starts again",
                  slot.number, theirs or "of unknown version", ours)  # fmt: skip
        if not self.holder.leaving:
            self.spawn(self.leave())

    def on_slot_exit(self, slot: SlotProcess, exit_: Exit) -> None:
        """A slot's process is dead."""
        if self._ended.done() or self.slots.get(slot.number) is not slot:
            return
        held = self.holder.by_slot.get(slot.number)
        name = held.work.profile.name if held else ""
        level = logging.DEBUG if slot.killed else logging.WARNING
        log.log(level, "slot %d %s%s", slot.number, exit_, f" while running {name!r}" if name else "")
        text = f"slot {slot.number} of node {self.config.name}: {exit_}"
        mark = Mark(0, Kind.CRASHED, text, exit_.code, exit_.signal, slot.last_lines(), slot.peak_memory)
        if held is not None:
            self.failures += 1
            self.watch.end(held)
            self.children.end(held, held.work.count)
            self.spool.remove_unreported(held.cargo.name, range(held.done, held.work.count))
        unfit = self.dressing.on_exit(slot, exit_)
        lost = self.holder.on_slot_lost(
            slot.number, slot.running()[0], unfit or mark, self._loop.time(), stillborn=bool(unfit)
        )
        self.carry_out(lost)
        wait = 0.0 if slot.ready else self._respawn_s.get(slot.number, limits.SLOT_RESTART_S)
        self._respawn_s[slot.number] = min(max(wait, limits.SLOT_RESTART_S) * 2, limits.SLOT_RESTART_MAX_S)
        if slot.number >= self.config.slots:
            del self.slots[slot.number]
        elif not self.holder.leaving:
            self._start_again(slot, wait, slot.place if slot.ready else None)

    def _on_result(self, slot: SlotProcess, payload: bytes) -> None:
        """Indices have ended: store the report, then tell the holder."""
        held = self.holder.by_slot.get(slot.number)
        if held is None:
            return
        view = memoryview(payload)
        size = slotwire.HEAD.unpack_from(view)[0]
        header = _read_result(view[slotwire.HEAD.size : slotwire.HEAD.size + size])
        self.runs += header.count
        self.failures += len(header.marks)
        self.cpu_seconds += header.cpu
        self.total_seconds += header.seconds
        self.bytes_out += len(payload)
        slot.tail.clear()
        report = Report(messages.PROTOCOL, held.work.token, header.first, header.count, self.config.node, slot.number,
                        header.marks, header.seconds, header.cpu)  # fmt: skip
        body = view[slotwire.HEAD.size + size :]
        if header.files:
            self.spawn(self._report_with_files(held, report, bytes(body), header.files))
        else:
            self._store(held, report, body)
        ended = held.done + header.count >= held.end
        self.children.end(held, held.done + header.count)
        if ended:
            self.watch.end(held)
        slot.flush_printed(partial=ended)
        self.carry_out(self.holder.on_reported(slot.number, header.count, self._loop.time()))

    async def _report_with_files(self, held: holding.Held, report: Report, body: bytes,
                                 files: Iterable[tuple[int, str, int, bool]]) -> None:  # fmt: skip
        try:
            report.blobs = await self.spool.upload(held.cargo.name, held.work, files)
        except (errors.EngineError, OSError) as error:
            text = f"the result could not be stored: {error}"
            report.marks = tuple(Mark(report.first + i, Kind.REFUSED, text) for i in range(report.count))
            body = b""
        self._store(held, report, body)

    def _store(self, held: holding.Held, report: Report, body: bytes | memoryview = b"") -> None:
        subject = subjects.result(held.work.session, self.config.node)
        report.origin, report.sequence = held.work.origin, held.sequence
        frame = messages.pack(report, body)
        msg_id = f"{report.token}.{report.first}.{self.incarnation}"

        def done(_sequence: int, error: errors.EngineError | None) -> None:
            if error is None:
                self.carry_out(self.holder.on_stored(held))
            elif not self._ended.done():
                log.warning("a report was not stored (%s), trying again", error)
                self._loop.call_later(
                    limits.STORE_RETRY_S, lambda: self.publisher.publish(subject, frame, done, msg_id=msg_id)
                )

        self.publisher.publish(subject, frame, done, msg_id=msg_id)

    def _on_output(self, slot: SlotProcess, payload: bytes) -> None:
        printed = _read_slot_output(payload)
        if not printed.raw:
            slot.remember(printed.index, [text for _, text in printed.lines])
        work = slot.work  # also when it has just been reported: what it printed may come a moment later
        if work is not None:
            self._printing.send(slot.number, work, printed)

    # ---- work arrives

    def on_work(self, lane: LaneId, msg: Msg, *, wait: bool) -> None:
        """The engine delivered a message of a lane."""
        parts = msg.reply.split(".")
        sequence, pending = int(parts[-4]), int(parts[-1])
        try:
            work = readable_work(messages.split(msg.data)[0])
        except errors.BadMessage as error:
            log.warning("a work message in lane %s cannot be read: %s", lane, error)
            self.connection.publish(msg.reply, b"+TERM")
            return
        self.bytes_in += len(msg.data)
        known = self.holder.held.get((lane, sequence))
        if known is not None:  # delivered again: only the way to acknowledge it is new
            known.cargo.ack = msg.reply
        cargo = known.cargo if known is not None else self._cargo(msg, work)
        self.carry_out(self.holder.on_message(lane, sequence, work, pending, self._loop.time(), cargo, wait=wait))

    def _cargo(self, msg: Msg, work: Work) -> Cargo:
        self._taken += 1
        return Cargo(msg.data, msg.reply, {}, [], name=f"{work.token:x}-{self.incarnation}-{self._taken:x}")

    def carry_out(self, effects: list[holding.Effect]) -> None:
        """Do what the holder decided."""
        for effect in effects:
            match effect:
                case holding.Start():
                    self._start(effect.held)
                case holding.Pull():
                    self.lanes.pull(effect.lane, wait=effect.wait)
                case holding.Ack():
                    self.connection.publish(effect.held.cargo.ack, b"+ACK")
                    self.spool.remove(effect.held.cargo.files.values())
                case holding.Nak():
                    self.connection.publish(effect.held.cargo.ack, b"-NAK")
                case holding.Finish():
                    report = Report(messages.PROTOCOL, effect.held.work.token, effect.first, effect.count, self.config.node,
                                    effect.held.cargo.slot, effect.marks)  # fmt: skip
                    self._store(effect.held, report)
                case holding.Retract():
                    self.slots[effect.slot].write(slotwire.RETRACT)
                case holding.Drop():
                    self.slots[effect.slot].write(slotwire.DROP, str(effect.index).encode())
                    self._on_dropped(self.holder.by_slot[effect.slot], self.slots[effect.slot])
                case holding.KillSlot():
                    self.slots[effect.slot].kill()
                case holding.StartSpare():
                    self.spawn(self.start_slot(effect.slot))
                case holding.RefuseWait():
                    self.slots[effect.slot].write(slotwire.REFUSED_WAIT)

    def _start(self, held: holding.Held) -> None:
        work = held.work
        if work.protocol != messages.PROTOCOL:
            self._refuse(held, mismatch("the client", "", work.protocol, f"node {self.config.name}"))
            return
        if len(held.dropped) == work.count:  # nothing of it is wanted any more, and its data may be gone already
            self._refuse(held, "", Kind.KILLED)
            return
        profile = work.profile
        own_process = profile.state.process or profile.environment
        if own_process and self.config.in_process:  # its client did not ask for a process
            why = f"node {self.config.name} has no processes, and the task asks for one (state='process' or env=)"
            self._refuse(held, why)
            return
        wanted = profile.code_names()
        if self.cache.missing(wanted) or work.blobs or not self.dressing.fits(held):
            self.spawn(self._fetch_and_run(held, wanted))
        else:
            self._run(held)

    async def _fetch_and_run(self, held: holding.Held, wanted: list[str]) -> None:
        try:
            await blobs.patiently(self.connection, lambda _number: self.cache.ensure(self.connection, wanted))
            await self.spool.download(held.cargo.name, held.work, held.dropped, held.cargo.files)
            if held.state is holding.HeldState.RUNNING:
                await self.dressing.dress(held)
        except errors.EnvironmentFailed as error:
            self._refuse(held, str(error), Kind.ENVIRONMENT)
            return
        except (errors.FarmhandError, OSError, TimeoutError) as error:
            self._refuse(held, f"its code or data could not be fetched: {error}")
            return
        if held.state is holding.HeldState.RUNNING:
            self._run(held)

    def _on_dropped(self, held: holding.Held, slot: SlotProcess) -> None:
        if self.dressing.on_drop(held):
            self._refuse(held, "", Kind.KILLED)
        else:
            self.watch.dropped(held, slot)

    def _refuse(self, held: holding.Held, why: str, kind: Kind = Kind.REFUSED) -> None:
        """End a message whose slot has not been touched."""
        if held.state is not holding.HeldState.RUNNING:
            return  # its slot died or its session ended meanwhile
        slot = held.slots[0]
        marks = tuple(Mark(i, kind, why) for i in range(held.work.count))
        self._store(held, Report(messages.PROTOCOL, held.work.token, 0, held.work.count, self.config.node, slot, marks))
        self.carry_out(self.holder.on_reported(slot, held.work.count, self._loop.time()))

    def _run(self, held: holding.Held) -> None:
        work, number = held.work, held.slots[0]
        slot = self.slots[number]
        held.cargo.slot = number
        results = self.spool.results(held.cargo.name)
        run = slotwire.Run(tuple(held.dropped), tuple(held.cargo.files.items()), results, work.attempt, held.cpus)
        slot.run(run, work, held.cargo.frame)
        self.watch.begin(held, slot)

    # ---- orders

    def _on_session_control(self, msg: Msg) -> None:
        control = messages.read_control(msg.data)
        if control.gone or control.unwanted:
            self.spool.forget(msg.subject.split(".")[1], control.unwanted)
        if control.gone:
            self.carry_out(self.holder.on_session_gone(msg.subject.split(".")[1]))
        for token, index in control.kill:
            held = next((h for h in self.holder.by_slot.values() if h.work.token == token), None)
            running = self.slots[held.slots[0]].running()[0] if held else -1
            self.carry_out(self.holder.on_kill(token, index, running))

    def _on_node_control(self, msg: Msg) -> None:
        """The steward asks what we hold."""
        self.connection.publish(msg.reply, messages.encode(holdings_of(self)))

    def _on_gone(self, msg: Msg) -> None:
        gone = messages.read_gone(msg.data)
        for session in gone.sessions:
            self.carry_out(self.holder.on_session_gone(session, gone.through, finish=gone.finish))
        for token in gone.tokens:
            self.carry_out(self.holder.on_taken_back(token))
        if self.incarnation in gone.incarnations and not self._ended.done():
            self._start_afresh("this node was believed lost and its work given to others")

    def _start_afresh(self, why: str) -> None:
        """Drop all, and end so that a new incarnation takes this one's place."""
        log.warning("%s; starting afresh", why)
        self.carry_out(self.holder.on_disowned())
        if not self._ended.done():
            self._ended.set_result(True)

    # ---- time

    def _on_tick(self) -> None:
        now = self._loop.time()
        self.watch.look()
        if not self.config.in_process:
            processes.reap_adopted()
        effects = self.holder.on_tick(now)
        for effect in effects:
            if isinstance(effect, holding.Retract) and (held := self.holder.by_slot.get(effect.slot)):
                self.watch.announce_running(held, self.slots[effect.slot], again=False)
        self.carry_out(effects)

    def _renew(self) -> None:
        for held in self.holder.held.values():
            self.connection.publish(held.cargo.ack, b"+WPI")

    def _beat(self) -> None:
        self.connection.publish(subjects.beat_of_node(self.config.node), messages.encode(beat_of(self)))
