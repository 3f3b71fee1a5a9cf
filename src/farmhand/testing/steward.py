"""The steward in the simulated world: what `farmhand.steward` does around `core.membership`, in the same order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from farmhand.core import membership
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId
from farmhand.model.messages import Gone, Holding, NodeBeat, Report, SessionBeat
from farmhand.model.needs import Lane
from farmhand.model.outcome import Kind, Mark
from farmhand.testing.actor import TIMEOUT, Actor, Request, Sleep, Steps
from farmhand.testing.engine import StoredWork
from farmhand.testing.publisher import Publisher, Storing

if TYPE_CHECKING:
    from farmhand.testing.world import World

NAME: Final = "steward"
_ASK_S: Final = 1.0
_SWEEPS_MAX: Final = 30
_TICK_S: Final = 0.1
_SETTLE_S: Final = 1.5 * limits.RECONNECT_MAX_S + 0.5  # by then everybody who lives has connected again


class SimSteward(Storing):
    """One steward, started again after each death. The lanes it made are known to the engine."""

    def __init__(self, world: World) -> None:
        super().__init__(world, NAME)
        self.membership = membership.Membership()
        self.lost: set[str] = set()  # incarnations that this life has declared lost
        self._stored_lanes: dict[LaneId, Lane] = {}
        self._sweeping = self._wanted = False
        self._withdrawing: set[str] = set()
        self._ticked_at = self._blind_at = 0.0

    # ---- life

    def on_start(self) -> None:
        """Learn the lanes from the engine; sweep once when every living node has had time to be heard."""
        self.membership = membership.Membership()
        self.publisher = Publisher(self)
        self.lost = set()
        self._sweeping = self._wanted = False
        self._withdrawing = set()
        for lane in self._stored_lanes.values():
            self.membership.on_lane(lane)
        self._announce()
        self._ticked_at = self.world.schedule.now
        self.every(_TICK_S, self._tick)
        self.after(limits.NODE_SILENCE_S, self._want_sweep)
        self._on_sight()

    def on_connected(self) -> None:
        """Silence during an outage means nothing."""
        self.membership.on_blind(self.world.schedule.now, limits.RECONNECT_MAX_S)
        self.publisher.on_connected()
        self._on_sight()

    def _on_sight(self) -> None:
        self._blind_at = self.world.schedule.now
        self.after(_SETTLE_S, self._begin_census, self._blind_at)

    def _begin_census(self, blind_at: float) -> None:
        if blind_at == self._blind_at:
            self.spawn(self._take_census(blind_at))

    def _take_census(self, blind_at: float) -> Steps:
        census = yield Request(self.world.engine.census)
        if census is TIMEOUT:
            self._on_sight()
        else:
            stored, connected = census
            self._apply(self.membership.on_census(stored, connected, blind_at))

    def check(self) -> None:
        """See `invariants`."""
        self.world.invariants.check_steward(self)

    def _tick(self) -> None:
        now = self.world.schedule.now
        stopped = now - self._ticked_at > limits.STOPPED_S
        if stopped or not self.world.engine.up:
            self.membership.on_blind(now)
        if stopped:
            self._on_sight()
        self._ticked_at = now
        self._apply(self.membership.on_tick(now))
        self.check()

    # ---- what others say

    def on_node_beat(self, beat: NodeBeat) -> None:
        """A node is alive."""
        self._apply(self.membership.on_node_beat(beat, self.world.schedule.now))

    def on_node_bye(self, node: str, incarnation: str) -> None:
        """A node has left."""
        self._apply(self.membership.on_node_bye(node, incarnation))

    def on_session_beat(self, beat: SessionBeat) -> None:
        """A session is alive, or ends."""
        self._apply(self.membership.on_session_beat(beat, self.world.schedule.now))

    def on_disconnected(self, name: str) -> None:
        """The engine says that a connection has closed."""
        if not self.membership.on_disconnected(name, self.world.schedule.now):
            self.after(limits.NODE_GONE_S, self._want_sweep)

    def _apply(self, effects: list[membership.Effect]) -> None:
        for effect in effects:
            match effect:
                case membership.NodeLost():
                    self.world.log("%s is lost: %s", effect.incarnation, effect.why)
                    self.lost.add(effect.incarnation)
                    self._tell_gone(Gone(incarnations=(effect.incarnation,)))
                    self._want_sweep()
                case membership.SessionLost():
                    self.world.log("%s is over: %s", effect.session, effect.why)
                    self.spawn(self._end_session(effect))
                case membership.Withdraw():
                    self.spawn(self._withdraw(effect.session, finish=False))
                case membership.TakeBack():
                    self._tell_gone(Gone(tokens=effect.tokens))
                case membership.Disown():
                    self._tell_gone(Gone(incarnations=(effect.incarnation,)))
                case membership.LanesChanged():
                    self._announce()

    def _tell_gone(self, gone: Gone) -> None:
        engine = self.world.engine
        self.world.network.up(self, engine.broadcast, (self.world.nodes, "on_gone", (gone,)), core=True)

    def _announce(self) -> None:
        engine, table = self.world.engine, self.membership.table()
        listeners = [*self.world.nodes, *self.world.clients]
        self.world.network.up(self, engine.broadcast, (listeners, "on_lanes", (table,)), core=True)

    def _end_session(self, lost: membership.SessionLost) -> Steps:
        self.world.invariants.on_session_over(lost.session)
        if (yield from self._withdraw(lost.session, finish=not lost.kill)):
            yield Request(self.world.engine.purge, (lost.session, True))

    def _withdraw(self, session: str, *, finish: bool) -> Steps:
        if session in self._withdrawing:
            return True
        self._withdrawing.add(session)
        through = yield Request(self.world.engine.purge, (session, False))
        self._withdrawing.discard(session)
        if through is TIMEOUT:
            return False
        self._tell_gone(Gone(sessions=(session,), through=through, finish=finish))
        return True

    # ---- questions

    def on_lane_request(self, asker: Actor, number: int, lane: Lane) -> None:
        """A session needs a lane."""
        self._stored_lanes[lane.id] = lane
        self.membership.on_lane(lane)
        self._announce()
        self._respond(asker, number, self.membership.lanes[lane.id])

    def on_lanes_request(self, asker: Actor, number: int) -> None:
        """A node asks for the table."""
        self._respond(asker, number, self.membership.table())

    def on_oldest_request(self, asker: Actor, number: int, lane: LaneId, session: str) -> None:
        """A session asks whether its work is still there."""

        def ask() -> Steps:
            oldest = yield Request(self.world.engine.oldest, (lane, session))
            if oldest is not TIMEOUT:
                self._respond(asker, number, oldest)

        self.spawn(ask())

    def _respond(self, asker: Actor, number: int, value: Any) -> None:
        self.world.network.up(self, self.world.engine.respond, (asker, number, value))

    # ---- giving back the work of nodes that are gone

    def _want_sweep(self) -> None:
        if self._sweeping:
            self._wanted = True
        else:
            self._sweeping = True
            self.spawn(self._sweep())

    def _sweep(self) -> Steps:
        self._wanted = True
        while self._wanted:
            self._wanted = False
            lanes = list(self.membership.lanes)
            for _ in range(_SWEEPS_MAX):
                done = set()
                for lane in lanes:
                    if (yield from self._sweep_lane(lane)):
                        done.add(lane)
                lanes = [lane for lane in lanes if lane not in done]
                if not lanes:
                    break
                yield Sleep(_ASK_S / 2)
        self._sweeping = False

    def _sweep_lane(self, lane: LaneId) -> Any:
        delivered = yield Request(self.world.engine.delivered, (lane,))
        if delivered is TIMEOUT:
            return False
        if not delivered:
            return True
        holdings: list[Holding] = []
        for node in self.membership.serving(lane):
            target = self.world.node_named(node)
            answer = yield Request(self.world.engine.forward, (target, target.on_holding_request), _ASK_S)
            if answer is TIMEOUT or answer is None:
                if node in self.membership.nodes:
                    return False
                continue
            holdings += answer
        for sequence in membership.orphans(delivered, holdings, lane):
            if not (yield from self.give_back(sequence)):
                return False
        return True

    def give_back(self, sequence: int) -> Any:
        """First the report is stored, then the message is removed."""
        message = yield Request(self.world.engine.message_at, (sequence,))
        if message is TIMEOUT:
            return False
        if message is None:
            return True
        yield from self.store_loss(message)
        self.membership.on_given_back(message.work.token)
        return (yield Request(self.world.engine.delete, (sequence,))) is not TIMEOUT

    def store_loss(self, message: StoredWork) -> Any:
        """Return when the engine has the report that this message's node is gone."""
        work = message.work
        marks = tuple(Mark(index, Kind.LOST, "its node is gone") for index in range(work.count))
        report = Report(messages.PROTOCOL, work.token, 0, work.count, NAME, -1, marks)
        stored: list[bool] = []
        args: tuple[Any, ...] = (f"{work.token}.lost", work.session, report, [])
        self.publisher.publish(self.world.engine.publish_result, args, lambda _sequence, _problem: stored.append(True))
        while not stored:
            yield Sleep(0.01)
