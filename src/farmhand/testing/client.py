"""A session in the simulated world: what `farmhand.client.driver` does around `core.session`, in the same order."""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING, Any

from farmhand.core import session as core
from farmhand.core.family import Families
from farmhand.core.feeding import Unfed
from farmhand.core.tasks import Batch, Group, Links, Task
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId, Token, kill_on_loss
from farmhand.model.messages import Control, Feed, LaneTable, Profile, Report, SessionBeat, Started, State, Work
from farmhand.model.needs import Lane
from farmhand.model.nested import Nested
from farmhand.model.outcome import Kind
from farmhand.model.retry import Retry
from farmhand.model.version import VERSION
from farmhand.testing import nested
from farmhand.testing.actor import TIMEOUT, Request, Sleep, Steps
from farmhand.testing.calls import Call, call_of
from farmhand.testing.engine import FULL
from farmhand.testing.invariants import require
from farmhand.testing.publisher import Publisher, Storing

if TYPE_CHECKING:
    from farmhand.testing.world import World


class SimClient(Storing):
    """One session. It lives once: a client that dies is gone."""

    def __init__(self, world: World, name: str, rng: Random, bound: int) -> None:
        super().__init__(world, name)
        self.core = core.Session(rng.randbytes(16), bound)
        self.families = Families(self.core, itertools.count(1))
        self.brood: list[Call] = []  # of its calls
        self.bound = bound
        self.calls: list[Call] = []
        self.open = 0  # calls without an outcome
        self.groups: list[Group] = []
        self.over = False  # it has said that it ends, or died
        self._last = 0  # stream sequence of the last report
        self._lanes: set[LaneId] = set()
        self._prepared: set[LaneId] = set()
        self._armed_at = float("inf")

    # ---- life

    def on_start(self) -> None:
        """Connect, read results, say that we live."""
        self.publisher = Publisher(self)
        self.world.network.up(self, self.world.engine.read, (self, self._last))
        self._beat()
        self.every(limits.BEAT_S, self._beat)

    def on_killed(self) -> None:
        """Nobody waits any more."""
        self.over = True

    def end(self) -> None:
        """Leave in good order: withdraw what is left."""
        if self.frozen or not self.alive:
            return
        network, engine = self.world.network, self.world.engine
        network.up(self, engine.broadcast, (self.world.nodes, "on_control", (self.name, Control(gone=True))), core=True)
        self._beat(ended=True)
        self.world.log("%s ends", self.name)
        self.kill()

    def on_connected(self) -> None:
        """Results go on from the last one; unanswered publishes are repeated."""
        self.world.network.up(self, self.world.engine.read, (self, self._last))
        self.publisher.on_connected()
        self._beat()
        self._pump()

    def check(self) -> None:
        """See `invariants`."""
        self.world.invariants.check_session(self)

    def _beat(self, *, ended: bool = False) -> None:
        on_loss = "kill" if kill_on_loss(self.name) else "finish"
        beat = SessionBeat(messages.PROTOCOL, VERSION, self.name, "", 0, "", on_loss, ended=ended)
        engine = self.world.engine
        self.world.network.up(self, engine.broadcast, ([self.world.steward], "on_session_beat", (beat,)), core=True)

    # ---- submitting

    def group(self, lane: Lane, retry: Retry, timeout: float) -> Group:
        """A new group of calls."""
        state = State(process=len(self.groups) % 3 == 2)  # some calls want a process each
        environment = ("", "a", "b")[len(self.groups) % 3]
        profile = Profile(f"f{len(self.groups)}", timeout=timeout, state=state, environment=environment)
        group = Group(lane, profile, retry)
        self.groups.append(group)
        return group

    def submit(self, group: Group, calls: list[Call]) -> None:
        """Accept calls of a group."""
        if self.over:
            return
        for call in calls:
            call.group = self.groups.index(group)
            call.task = Task(group, call.size, call)
            call.inputs = [self.calls[-back] for back in call.picks if back <= len(self.calls)]
            if call.inputs:
                call.task.links = Links(other.task for other in call.inputs)
            self.calls.append(call)
        self.open += len(calls)
        self.core.on_submitted(group, [call.task for call in calls])
        self._need_lane(group.lane)
        self._pump()

    def all_groups(self) -> list[Group]:
        """Those of its calls, and those of their children."""
        return [*self.groups, *self.families.groups()]

    def _pump(self) -> None:
        nested.collect(self)
        self._carry_out(self.core.plan(self.world.schedule.now), None, [])
        due = self.core.next_deadline()
        if due is not None and due < self._armed_at:
            self._armed_at = max(due, self.world.schedule.now + 0.001)
            self.after(self._armed_at - self.world.schedule.now, self._on_timer)

    def _on_timer(self) -> None:
        self._armed_at = float("inf")
        self._carry_out(self.core.on_tick(self.world.schedule.now), None, [])
        self._pump()

    def carry_out(self, effects: list[core.Effect]) -> None:
        """Do what the core decided, other than by a report."""
        self._carry_out(effects, None, [])

    def _carry_out(self, effects: list[core.Effect], report: Report | None, body: list[Any]) -> None:
        for effect in effects:
            match effect:
                case core.Send():
                    self._send(effect.batch)
                case core.Delivered():
                    self.world.invariants.on_delivered(self, effect, report, body)
                    nested.on_delivered(self, effect)
                case core.Ended():
                    self.world.invariants.on_ended(self, effect, report)
                    nested.on_ended(self, effect)
                case Unfed():
                    self.world.invariants.on_unfed(effect)
                case core.Running():
                    nested.on_running(effect)
                case core.Stop():
                    args = (self.name, Control(kill=tuple(effect.targets)))
                    engine = self.world.engine
                    self.world.network.up(self, engine.broadcast, (self.world.nodes, "on_control", args), core=True)
                case core.CheckLane():
                    self.spawn(self._check_lane(effect.lane))
        nested.flush(self)

    def _send(self, batch: Batch) -> None:
        group, tasks = batch.group, batch.tasks
        self.world.invariants.on_sent(self, batch)
        body: list[Any] = [call_of(task) for task in tasks]
        feeds = self._feeds(batch, body)
        alone = any(task is not None and task.careful for task in tasks)
        work = Work(messages.PROTOCOL, self.name, batch.token, batch.count, group.profile, 0.0, alone, batch.attempt,
                    depth=group.depth, feeds=feeds)  # fmt: skip

        def done(sequence: int, problem: str) -> None:
            if problem:
                refused = self.core.on_refused(batch.token, self.world.schedule.now, full=problem == FULL)
                self._carry_out(refused, None, [])
                self._pump()
            else:
                self.core.on_stored(batch.token, sequence)

        self.publisher.publish(self.world.engine.publish_work, (group.lane_id, work, body), done)

    def on_nested(self, said: Nested) -> None:
        """A task of ours, on some node, says something about its children."""
        started = self.core.on_started(Token(said.token), said.index, said.node)
        nested.on_nested(self, said)
        for lane in nested.lanes_of(said):
            self._need_lane(lane)
        self._carry_out(started, None, [])
        self._pump()

    def _feeds(self, batch: Batch, body: list[Any]) -> tuple[Feed, ...]:
        """As `farmhand.client.inputs.Freight`: values that are known go into the message."""
        feeds = []
        for index, task in enumerate(batch.tasks):
            if task is None or not call_of(task).inputs:
                continue
            places = []
            for call in call_of(task).inputs:
                if call.value is not None:
                    places.append(len(body))
                    body.append(call.value)
                else:
                    require(call.task.token == batch.token, "a task is sent ahead of its input", task.cargo, call)
                    places.append(call.task.index)
            feeds.append(Feed(index, tuple(places)))
        return tuple(feeds)

    # ---- lanes

    def _need_lane(self, lane: Lane) -> None:
        if lane.id not in self._lanes:
            self._lanes.add(lane.id)
            self.spawn(self._prepare_lane(lane))

    def _prepare_lane(self, lane: Lane) -> Steps:
        engine, steward = self.world.engine, self.world.steward
        while (state := (yield Request(engine.forward, (steward, steward.on_lane_request, lane)))) in (TIMEOUT, None):
            yield Sleep(0.05)
        self._prepared.add(lane.id)
        self.core.on_slots(lane.id, state.slots)
        self._pump()

    def on_lanes(self, table: LaneTable) -> None:
        """The steward's table of lanes."""
        for state in table.lanes:
            if LaneId(state.id) in self._prepared:
                self.core.on_slots(LaneId(state.id), state.slots)
        self._pump()

    def _check_lane(self, lane: LaneId) -> Steps:
        asked_at = self.world.schedule.now
        engine, steward = self.world.engine, self.world.steward
        oldest = yield Request(engine.forward, (steward, steward.on_oldest_request, lane, self.name))
        if oldest is TIMEOUT or oldest is None:
            return
        self._carry_out(self.core.on_lane_checked(lane, asked_at, oldest), None, [])
        self._pump()

    # ---- what nodes say

    def on_result(self, sequence: int, report: Report, body: list[Any]) -> None:
        """A report, in order and never twice."""
        if sequence <= self._last:
            return
        self._last = sequence
        effects = self.core.on_report(report, self.world.schedule.now)
        self._carry_out(effects, report, body)
        self._pump()

    def on_started(self, notice: Started) -> None:
        """A node says that something runs."""
        effects = self.core.on_started(Token(notice.token), notice.index, notice.node)
        self._carry_out(effects, None, [])

    # ---- stopping

    def cancel(self, call: Call) -> None:
        """As `Future.cancel`."""
        if self.alive:
            cancelled, effects = self.core.cancel(call.task)
            self._stopped(call, cancelled, effects)

    def stop(self, call: Call) -> None:
        """As `Future.kill`."""
        if self.alive:
            ended, effects = self.core.kill(call.task)
            self._stopped(call, ended, effects)

    def _stopped(self, call: Call, ended: bool, effects: list[core.Effect]) -> None:
        if ended:
            self.world.invariants.on_outcome(call, Kind.KILLED.name)
        self._carry_out(effects, None, [])
        self._pump()
