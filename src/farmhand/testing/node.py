"""A node in the simulated world: what `farmhand.node.agent` does around `core.holding`, in the same order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from farmhand.core import holding
from farmhand.core.pauses import Pauses
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId
from farmhand.model.messages import Control, Gone, Holding, LaneTable, NodeBeat, Report, Started
from farmhand.model.nested import NestedAnswer
from farmhand.model.outcome import Kind, Mark
from farmhand.model.version import VERSION
from farmhand.testing.actor import TIMEOUT, Actor, Request, Steps
from farmhand.testing.engine import StoredWork
from farmhand.testing.nested import Lines
from farmhand.testing.publisher import Publisher, Storing
from farmhand.testing.slot import SimSlot

if TYPE_CHECKING:
    from farmhand.testing.world import World

_TICK_S: Final = limits.OVERDUE_S / 2
_LEAVE_POLL_S: Final = 0.02
_UNFIT: Final = 0.05  # of the environments do not run


class Cargo:
    """What the agent keeps with a held message: the message, and how it left the node."""

    __slots__ = ("left", "message")

    def __init__(self, message: StoredWork) -> None:
        self.message = message
        self.left = ""


class SimNode(Storing):
    """One machine's agent over all its incarnations, with its slots."""

    def __init__(self, world: World, name: str, slots: int, capabilities: dict[str, str], grace: float) -> None:
        super().__init__(world, name)
        self.capabilities = capabilities
        self.incarnation = ""
        self.places = slots
        self.holder = holding.Holder(slots)
        self.lenders: set[holding.Held] = set()  # that have waited for children
        self.lines = Lines(self)
        self.slots = [SimSlot(self, number) for number in range(slots)]
        self.frozen_slots = False  # a freeze holds the slots too
        self.gone_for_good = False
        self._changing: dict[
            int, holding.Held
        ] = {}  # slots whose process is ended for another environment, and for whom
        self._pauses = Pauses(0.0)
        self._grace = grace
        self._ticking = False

    # ---- life

    def on_start(self) -> None:
        """A new incarnation."""
        self.incarnation = f"{self.name}-{self.life}"
        self.world.log("%s starts", self.incarnation)
        self.holder = holding.Holder(self.places)
        self.lenders.clear()
        self.lines = Lines(self)
        self.publisher = Publisher(self)
        self._ticking = False
        self._changing.clear()
        self._pauses = Pauses(self.world.schedule.now)
        for slot in self.slots[: self.places]:
            slot.start()
        self.on_connected()
        self.every(limits.BEAT_S, self._beat)
        self.every(limits.RENEW_S, self._renew)
        self.every(limits.BEAT_S, self._tick_when_idle)

    def on_killed(self) -> None:
        """The slots die with their agent."""
        for slot in self.slots:
            slot.stop()

    def on_connected(self) -> None:
        """Say that we live, ask for work again."""
        self.publisher.on_connected()
        self.lines.on_connected()
        self._beat()
        self.carry_out(self.holder.on_connected())
        self.spawn(self._refresh())

    def _refresh(self) -> Steps:
        engine, steward = self.world.engine, self.world.steward
        table = yield Request(engine.forward, (steward, steward.on_lanes_request))
        if table is not TIMEOUT and table is not None:
            self.on_lanes(table)

    def check(self) -> None:
        """See `invariants`."""
        self.world.invariants.check_node(self)

    def leave(self) -> None:
        """Take nothing new, finish for the grace, hand the rest back, say goodbye."""
        if not self.alive or self.frozen or self.holder.leaving:
            return
        self.world.log("%s leaves", self.incarnation)
        self.carry_out(self.holder.on_leave())
        self._beat()
        now = self.world.schedule.now
        self._wait_quiet(now + self._grace, now + self._grace + limits.REQUEST_S)

    def _wait_quiet(self, grace_until: float, until: float) -> None:
        now = self.world.schedule.now
        if self.holder.quiet or now >= until:
            engine = self.world.engine
            bye = ([self.world.steward], "on_node_bye", (self.name, self.incarnation))
            self.world.network.up(self, engine.broadcast, bye, core=True)
            self.kill()
            return
        if now >= grace_until:
            self.carry_out(self.holder.on_grace_over())
            grace_until = until
        self.after(_LEAVE_POLL_S, self._wait_quiet, grace_until, until)

    # ---- slots

    def on_slot_ready(self, slot: SimSlot) -> None:
        """READY has come."""
        self.carry_out(self.holder.on_slot_ready(slot.number, self.world.schedule.now))

    def on_slot_exit(self, slot: SimSlot) -> None:
        """The end of a slot's process has come."""
        changing = self._changing.pop(slot.number, None)
        if changing is not None and not slot.ordered:
            self._change(slot, changing)
            return
        held = self.holder.by_slot.get(slot.number)
        self.world.log("%s.%d is gone", self.incarnation, slot.number)
        if held is not None:
            self.world.invariants.on_slot_death(held, slot.running)
        mark = Mark(0, Kind.CRASHED, "killed", None, 9)
        self.carry_out(self.holder.on_slot_lost(slot.number, slot.running, mark, self.world.schedule.now))
        if held is not None:
            self.lines.end(held, held.work.count)
        if not self.holder.leaving and slot.number < self.places:
            self.after(0.0 if self.world.rng.random() < 0.5 else limits.SLOT_RESTART_S, slot.start, slot.worn)

    def _change(self, slot: SimSlot, held: holding.Held) -> None:
        """Its next process is in another environment, and now and then cannot run there."""
        wanted = held.work.profile.environment
        if wanted and self.world.rng.random() < _UNFIT:
            slot.stop()
            mark = Mark(0, Kind.ENVIRONMENT, "its Python does not run")
            now = self.world.schedule.now
            self.carry_out(self.holder.on_slot_lost(slot.number, -1, mark, now, stillborn=True))
            if slot.number < self.places:  # a spare is started when one is wanted
                self.after(limits.SLOT_RESTART_S, slot.start)
            return
        slot.start(wanted)
        self._run(held)

    def on_slot_result(self, slot: SimSlot, first: int, count: int, marks: tuple[Mark, ...], values: list[Any],
                       seconds: float) -> None:  # fmt: skip
        """Indices have ended: store the report, then tell the holder."""
        held = self.holder.by_slot.get(slot.number)
        if held is None:
            return
        report = Report(messages.PROTOCOL, held.work.token, first, count, self.name, slot.number, marks, seconds)
        if self.world.rng.random() < 0.95:
            self._store(held, report, values)
        else:  # a large result goes ahead of its report
            self.after(0.5 * self.world.rng.random(), self._store, held, report, values)
        self.lines.end(held, first + count)
        self.carry_out(self.holder.on_reported(slot.number, count, self.world.schedule.now))

    def on_slot_retracted(self, slot: SimSlot, token: int, first: int) -> None:
        """The slot has given back."""
        self.carry_out(self.holder.on_retracted(slot.number, token, first, self.world.schedule.now))

    def _store(self, held: holding.Held, report: Report, body: list[Any]) -> None:
        msg_id = f"{report.token:x}.{report.first}.{self.incarnation}"

        def done(_sequence: int, problem: str) -> None:
            if problem:
                self.after(limits.STORE_RETRY_S, self.publisher.publish, self.world.engine.publish_result, args, done)
            else:
                self.carry_out(self.holder.on_stored(held))

        args = (msg_id, held.work.session, report, body)
        self.publisher.publish(self.world.engine.publish_result, args, done)

    # ---- work

    def on_work(self, message: StoredWork, pending: int, wait: bool) -> None:
        """The engine delivered a message."""
        known = self.holder.held.get((message.lane, message.sequence))
        cargo = known.cargo if known is not None else Cargo(message)
        now = self.world.schedule.now
        self.carry_out(
            self.holder.on_message(message.lane, message.sequence, message.work, pending, now, cargo, wait=wait)
        )
        if not self._ticking:
            self._ticking = True
            self.after(_TICK_S, self._tick_while_busy)

    def on_pull_ended(self, lane: LaneId, wait: bool) -> None:
        """The engine had nothing."""
        self.carry_out(self.holder.on_pull_ended(lane, wait=wait))

    def carry_out(self, effects: list[holding.Effect]) -> None:
        """Do what the holder decided."""
        network, engine = self.world.network, self.world.engine
        for effect in effects:
            match effect:
                case holding.Start():
                    self._start(effect.held)
                case holding.Pull():
                    network.up(self, engine.pull, (self, self.life, effect.lane, effect.wait))
                case holding.Ack():
                    self.world.invariants.on_left(self, effect.held, "ack")
                    network.up(self, engine.ack, (effect.held.sequence,))
                case holding.Nak():
                    self.world.invariants.on_left(self, effect.held, "nak")
                    network.up(self, engine.nak, (effect.held.sequence,))
                case holding.Finish():
                    held = effect.held
                    report = Report(
                        messages.PROTOCOL, held.work.token, effect.first, effect.count, self.name, -1, effect.marks
                    )
                    self._store(held, report, [])
                case holding.Retract():
                    self.slots[effect.slot].retract()
                case holding.Drop():
                    self.slots[effect.slot].drop(effect.index)
                case holding.KillSlot():
                    self.slots[effect.slot].ordered = True
                    self.slots[effect.slot].kill()
                case holding.StartSpare():
                    self._start_spare(effect.slot)
                case holding.RefuseWait():
                    raise AssertionError("so many cannot wait in this world")

    def _start_spare(self, number: int) -> None:
        while len(self.slots) <= number:
            self.slots.append(SimSlot(self, len(self.slots)))
        self.slots[number].start()

    def _start(self, held: holding.Held) -> None:
        if self.world.rng.random() < 0.9:
            self._run(held)
        else:  # its code must be fetched first
            self.after(0.2 * self.world.rng.random(), self._run, held)

    def _run(self, held: holding.Held) -> None:
        if held.state is not holding.HeldState.RUNNING:
            return
        slot = self.slots[held.slots[0]]
        if slot.worn != held.work.profile.environment:
            self._changing[slot.number] = held
            slot.kill()
            return
        if held.work.alone:
            self._announce(held, 0)
        slot.run(held, held.cargo.message.body)
        self.after(limits.STARTED_NOTICE_S, self._announce_running, held, slot)
        if held.work.profile.timeout:
            self.after(held.work.profile.timeout, self._check_timeout, held, slot)

    def _announce_running(self, held: holding.Held, slot: SimSlot, again: bool = True) -> None:
        if held.state is not holding.HeldState.RUNNING or self.holder.by_slot.get(slot.number) is not held:
            return
        if slot.running >= 0:
            self._announce(held, slot.running)
            if again:
                self.after(limits.ANNOUNCE_S, self._announce_running, held, slot)
        elif again:
            self.after(limits.OVERDUE_S, self._announce_running, held, slot)

    def _announce(self, held: holding.Held, index: int) -> None:
        notice = Started(held.work.token, index, self.name, held.slots[0])
        engine, client = self.world.engine, self.world.client_named(held.work.session)
        self.world.network.up(self, engine.broadcast, ([client], "on_started", (notice,)), core=True)

    def _check_timeout(self, held: holding.Held, slot: SimSlot) -> None:
        if held.state is not holding.HeldState.RUNNING or self.holder.by_slot.get(slot.number) is not held:
            return
        timeout, now = held.work.profile.timeout, self.world.schedule.now
        left = slot.began + timeout + self._pauses.since(slot.began, now) - now if slot.running >= 0 else timeout
        if slot.running >= 0 and left <= 1e-9:
            self.carry_out(self.holder.on_overtime(slot.number, slot.running, Kind.TIMED_OUT))
            left = timeout
        self.after(left, self._check_timeout, held, slot)

    # ---- orders

    def on_lanes(self, table: LaneTable) -> None:
        """The steward's table of lanes."""
        self.carry_out(
            self.holder.on_lanes([s.lane for s in table.lanes if not s.lane.lacks(self.capabilities, ("3.11",))])
        )

    def on_control(self, session: str, control: Control) -> None:
        """A session's wish."""
        if control.gone:
            self.carry_out(self.holder.on_session_gone(session))
        for token, index in control.kill:
            held = next((h for h in self.holder.by_slot.values() if h.work.token == token), None)
            running = self.slots[held.slots[0]].running if held else -1
            self.carry_out(self.holder.on_kill(token, index, running))

    def on_gone(self, gone: Gone) -> None:
        """The steward's word on who is gone."""
        for session in gone.sessions:
            self.carry_out(self.holder.on_session_gone(session, gone.through, finish=gone.finish))
        for token in gone.tokens:
            self.carry_out(self.holder.on_taken_back(token))
        if self.incarnation in gone.incarnations:
            self.world.log("%s was disowned", self.incarnation)
            self.carry_out(self.holder.on_disowned())
            self.check()
            self.kill()
            self.start()

    def on_nested_answer(self, answer: NestedAnswer) -> None:
        """A session answers a task that submits."""
        self.lines.on_answer(answer)

    def on_holding_request(self, asker: Actor, number: int) -> None:
        """The steward asks what we hold."""
        self.world.network.up(self, self.world.engine.respond, (asker, number, self._holding()))

    # ---- time

    def _tick_while_busy(self) -> None:
        self._ticking = bool(self.holder.held or self.holder.by_slot)
        if self._ticking:
            self.after(_TICK_S, self._tick_while_busy)
        self._tick()

    def _tick_when_idle(self) -> None:
        if not self._ticking:
            self._tick()
            self.check()

    def _tick(self) -> None:
        self._pauses.look(self.world.schedule.now)
        effects = self.holder.on_tick(self.world.schedule.now)
        for effect in effects:
            if isinstance(effect, holding.Retract) and (held := self.holder.by_slot.get(effect.slot)):
                self._announce_running(held, self.slots[effect.slot], again=False)
        self.carry_out(effects)

    def _renew(self) -> None:
        for held in self.holder.held.values():
            self.world.network.up(self, self.world.engine.renew, (held.sequence,))

    def _holding(self) -> tuple[Holding, ...]:
        return tuple(
            Holding(held.lane, held.sequence, held.work.session, held.work.token, held.work.count)
            for held in self.holder.held.values()
        )

    def _beat(self) -> None:
        beat = NodeBeat(messages.PROTOCOL, VERSION, self.name, self.name, self.incarnation, "", 0, self.places, self.holder.busy,
                        "3.11", self.capabilities, self._holding(), leaving=self.holder.leaving)  # fmt: skip
        engine = self.world.engine
        self.world.network.up(self, engine.broadcast, ([self.world.steward], "on_node_beat", (beat,)), core=True)
