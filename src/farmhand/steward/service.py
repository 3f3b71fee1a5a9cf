"""The steward: makes lanes, watches nodes and sessions, gives a lost node's work back, answers questions.

The decisions are `core.membership`'s. It keeps nothing that it cannot learn again from heartbeats and from the engine, so
it may be killed at any moment. It reads headers only: this package imports neither pickle nor the code loader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from farmhand import errors
from farmhand.core import membership
from farmhand.engine import blobs, streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.options import Options
from farmhand.engine.stored import Publisher
from farmhand.engine.wire import Msg
from farmhand.home.cluster import SERVERS
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId
from farmhand.model.messages import Answer, Gone
from farmhand.model.needs import Lane
from farmhand.model.version import VERSION
from farmhand.steward import census
from farmhand.steward.care import Care
from farmhand.steward.caretaker import Caretaker
from farmhand.steward.enrolment import Enrolment
from farmhand.steward.explain import explain
from farmhand.steward.failures import Failures
from farmhand.steward.lease import Term
from farmhand.steward.peers import Peers
from farmhand.steward.queues import queues_report
from farmhand.steward.recovery import Recovery
from farmhand.steward.status import status_report

log = logging.getLogger("farmhand.steward")

_PING_S: Final = 0.4  # the steward's own look at the engine: only while it answers, others' silence means anything
_ENGINE_SILENCE_S: Final = 1.0


class Steward:
    """One steward. `run` returns when `stop` is called."""

    def __init__(
        self, farm: Options, system: Options | None, enrolment: Enrolment | None, term: Term | None = None
    ) -> None:
        """`term`: in a cluster, for how long it acts; it ends with it."""
        self._term = term
        self.servers: Callable[[], dict[str, Any]] | None = None  # says which servers a cluster has
        self._doors = census.Doors()
        self.membership = membership.Membership()
        self._peers = Peers()
        self.connection: Connection
        self.publisher: Publisher
        self._farm_options = farm
        self._system_options = system
        self._system: Connection | None = None
        self._enrolment = enrolment
        self._recovery: Recovery
        self._caretaker: Caretaker
        self._failures: Failures
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._withdrawing: set[str] = set()  # sessions
        self._blind_at = self._loop.time()  # when an outage of ours ended; our start is the first
        self._census: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve until stopped. Raises when the engine refuses our credential."""
        self._farm_options.ping_interval = _PING_S
        if self._term is not None:
            self.connection = self._term.connection
            self._term.call_at_end(self.stop)
        else:
            self.connection = await Connection.open(self._farm_options, retry_forever=True)
        self.publisher = Publisher(self.connection)
        self._recovery = Recovery(self.connection, self.publisher, self.membership, self._term)
        care = Care(self.connection, self.publisher, self._spawn, self._ensure_lane)
        self._caretaker = Caretaker(care, self._on_session_removed)
        self._failures = Failures(care, self._caretaker)
        if self._system_options is not None:  # before anybody can ask to join, which needs it
            self._system = await Connection.open(self._system_options, retry_forever=True)
            self._system.subscribe("$SYS.ACCOUNT.*.CONNECT", lambda msg: self._doors.on_connect(msg.data))
            self._system.subscribe("$SYS.ACCOUNT.*.DISCONNECT", self._on_disconnect)
            self._system.on_connected.append(self._on_sight)
        try:
            await self._prepare()
            if self._term is not None:
                await self._term.set_mark()
            self._subscribe()
            self._spawn(self._look_after_sessions())
            self._announce()
            self._on_sight()
            self._spawn(self._tick_forever())
            self._sweep = self._loop.call_later(limits.NODE_SILENCE_S, lambda: self._spawn(self._recovery.sweep()))
            await self._stopped
        finally:
            await self._close()

    async def _close(self) -> None:
        """Leave nothing that goes on: in a cluster this process lives on, and may act again."""
        for timer in (self._census, self._sweep):
            if timer is not None:
                timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        self._caretaker.close()
        if self._system is not None:
            await self._system.close()
        if self._term is not None:
            await self._term.resign()
            self.publisher.close()
        await self.connection.close()

    def stop(self) -> None:
        """End `run`."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def _prepare(self) -> None:
        """The streams, and the lanes that exist from before."""
        await streams.ensure_streams(self.connection, await self._storage(), SERVERS if self._term else 1)
        for name in await streams.lane_names(self.connection):
            info = await streams.lane_info(self.connection, name)
            metadata = ((info or {}).get("config") or {}).get("metadata") or {}
            if text := metadata.get("lane"):
                self.membership.on_lane(msgspec.json.decode(text.encode(), type=Lane))

    async def _look_after_sessions(self) -> None:
        """Take over the named sessions; the engine may be going away again just now."""
        while True:
            try:
                return await self._caretaker.load()
            except (errors.EngineError, TimeoutError) as error:
                log.warning("the named sessions were not read yet: %s", error)
                await asyncio.sleep(limits.STORE_RETRY_S)
                await self.connection.wait_connected()

    def _on_session_removed(self, session: str) -> None:
        self._apply(self.membership.on_session_ended(session))

    async def _storage(self) -> int:
        """Bytes that the engine may store, 0 when it does not say."""
        if self._system is not None:
            await self._system.wait_connected()
            return await streams.storage_of_server(self._system)
        account = await streams.call(self.connection, "INFO")
        return max(0, int((account.get("limits") or {}).get("max_storage", 0)))

    def _subscribe(self) -> None:
        connection = self.connection
        connection.subscribe(subjects.NODE_BEATS, self._on_node_beat)
        connection.subscribe("node.*.bye", self._on_node_bye)
        connection.subscribe(subjects.SESSION_BEATS, self._on_session_beat)
        connection.on_connected.append(self._on_reconnected)
        connection.on_servers.append(
            self._on_reconnected
        )  # who was at a server that died needs time to come to another
        for verb, action in {
            "hello": self._hello, "lane": self._make_lane, "lanes": self._lanes, "status": self._status, "join": self._join,
            "oldest": self._oldest, "session": self._caretaker.session, "sessions": self._caretaker.summary,
            "session-rm": self._caretaker.remove, "session-stop": self._caretaker.stop,
            "failed": self._failures.summary, "failed-retry": self._failures.retry, "failed-forget": self._failures.forget,
            "queues": self._queues, "explain": self._explain,
        }.items():  # fmt: skip
            connection.subscribe(subjects.api(verb), self._serve(action))

    def _on_reconnected(self) -> None:
        # Others may need their longest pause before they are here again.
        self.membership.on_blind(self._loop.time(), limits.RECONNECT_MAX_S)
        self._on_sight()
        self._recovery.not_before = self._loop.time() + census.SETTLE_S
        self._spawn(self._recovery.sweep())
        self._spawn(self._prepare())

    def _on_sight(self) -> None:
        """We see again after an outage of ours or of the engine. Whose end we missed is found out when all had time to come back."""
        self._blind_at = self._loop.time()
        if self._census is not None:
            self._census.cancel()
        self._census = self._loop.call_later(census.SETTLE_S, lambda: self._spawn(self._take_census()))

    async def _take_census(self) -> None:
        if self._system is None:
            return
        blind_at = self._blind_at
        if not self._caretaker.loaded:  # its sessions would be taken for dead ones
            self._on_sight()
            return
        try:
            stored = await census.stored_sessions(self.connection)
            names = await census.connected(self._system)
        except (errors.EngineError, TimeoutError) as error:
            log.warning("no census of the sessions: %s", error)
            self._on_sight()
            return
        connected = {name.partition(":")[2] for name in names if name.startswith("session:")}
        connected.update(kept.id for kept in self._caretaker.sessions.values())
        self._apply(self.membership.on_census(stored, connected, blind_at))

    # ---- what others say

    def _on_node_beat(self, msg: Msg) -> None:
        beat = self._peers.read(msg, messages.read_node_beat)
        if beat is not None:
            self._apply(self.membership.on_node_beat(beat, self._loop.time()))

    def _on_node_bye(self, msg: Msg) -> None:
        self._apply(self.membership.on_node_bye(msg.subject.split(".")[1], bytes(msg.data).decode()))

    def _on_session_beat(self, msg: Msg) -> None:
        beat = self._peers.read(msg, messages.read_session_beat)
        if beat is not None:
            self._apply(self.membership.on_session_beat(beat, self._loop.time()))

    def _on_disconnect(self, msg: Msg) -> None:
        """The engine says that a connection has closed; 3 ms after a kill."""
        name = self._doors.on_disconnect(msg.data)
        if not name:
            return
        if not self.membership.on_disconnected(name, self._loop.time()):
            # It may have taken work before we heard of it, for example while we were starting.
            self._loop.call_later(limits.NODE_GONE_S, lambda: self._spawn(self._recovery.sweep()))

    async def _tick_forever(self) -> None:
        late_at = self._loop.time()
        while True:
            await asyncio.sleep(0.1)
            now = self._loop.time()
            stopped = now - late_at > limits.STOPPED_S
            deaf = now - self.connection.heard_at > _ENGINE_SILENCE_S
            if stopped or deaf or not self.connection.connected:  # not the fault of those who are silent
                self.membership.on_blind(now)
            if stopped:
                self._on_sight()
            late_at = now
            self._caretaker.on_tick(now)
            for kept in self._caretaker.sessions_to_beat(now):
                self._apply(self.membership.on_session_beat(kept.beat(), now))
            self._apply(self.membership.on_tick(now))

    def _check(self) -> None:
        """Before what cannot be undone. Raises `Deposed`."""
        if self._term is not None:
            self._term.check()

    def _apply(self, effects: list[membership.Effect]) -> None:
        if effects and self._term is not None and not self._term.valid:
            return
        for effect in effects:
            match effect:
                case membership.NodeLost():
                    log.warning("node %s is lost: %s", effect.node, effect.why)
                    self._tell_gone(Gone(incarnations=(effect.incarnation,)))
                    self._spawn(self._recover(effect))
                case membership.SessionLost():
                    log.info("session %s is over: %s", effect.session, effect.why)
                    self._spawn(self._end_session(effect))
                case membership.Withdraw():
                    self._spawn(self._withdraw(effect.session, finish=False))
                case membership.TakeBack():
                    self._tell_gone(Gone(tokens=effect.tokens))
                case membership.Disown():
                    self._tell_gone(Gone(incarnations=(effect.incarnation,)))
                case membership.LanesChanged():
                    self._announce()

    async def _recover(self, lost: membership.NodeLost) -> None:
        """Give back its work, at once; and once more what the engine gave to its connection until that was closed."""
        await self._recovery.sweep()
        if self._system is not None:
            await census.evict(self._system, f"node:{lost.node}:{lost.incarnation}")
            await self._recovery.sweep()

    def _tell_gone(self, gone: Gone) -> None:
        self.connection.publish(subjects.GONE, messages.encode(gone))

    def _announce(self) -> None:
        table = self.membership.table()
        self.connection.publish(subjects.LANES, messages.encode(table))
        self._caretaker.on_slots((LaneId(state.id), state.slots) for state in table.lanes)

    async def _end_session(self, lost: membership.SessionLost) -> None:
        """Withdraw its waiting work, stop what runs unless it asked otherwise, forget its data."""
        await self._withdraw(lost.session, finish=not lost.kill)
        self._check()
        await streams.purge(self.connection, subjects.RESULT, subjects.result(lost.session, "*"))
        self._check()
        await blobs.remove(self.connection, lost.session)

    async def _withdraw(self, session: str, *, finish: bool) -> None:
        """Remove a session's waiting work, and only then tell the nodes: what they let go of makes room for what still waits."""
        if session in self._withdrawing:
            return
        self._withdrawing.add(session)
        try:
            self._check()
            through = await streams.last_sequence(self.connection, subjects.WORK)
            self._check()
            work = subjects.work("*", session)
            await streams.purge(self.connection, subjects.WORK, work, before=through + 1)
            self._check()
            self._tell_gone(Gone(sessions=(session,), through=through, finish=finish))
        finally:
            self._withdrawing.discard(session)

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            level = logging.WARNING if isinstance(error, errors.EngineError | TimeoutError) else logging.ERROR
            log.log(level, "background work failed: %s", error, exc_info=level == logging.ERROR)

    # ---- questions

    def _serve(self, action: Callable[[Msg], Awaitable[Any]]) -> Callable[[Msg], None]:
        """Answer each request with an `Answer`; a failure is an answer too."""

        async def respond(msg: Msg) -> None:
            try:
                answer = Answer(result=await action(msg))
            except errors.FarmhandError as error:
                answer = Answer(error=str(error), kind=type(error).__name__)
            except (TimeoutError, msgspec.MsgspecError) as error:
                answer = Answer(error=f"{type(error).__name__}: {error}", kind="EngineError")
            except Exception as error:  # whoever asks must not wait for an answer that never comes
                log.exception("a request on %s failed", msg.subject)
                text = f"the steward failed ({type(error).__name__}: {error}); its log has the traceback"
                answer = Answer(error=text, kind="EngineError")
            self.connection.publish(msg.reply, messages.encode(answer))

        return lambda msg: self._spawn(respond(msg)) if msg.reply else None

    async def _hello(self, _msg: Msg) -> dict[str, Any]:
        """Who we are: clients and nodes compare versions before they do anything else."""
        return {"version": VERSION, "protocol": messages.PROTOCOL, "nodes": len(self.membership.nodes),
                "slots": sum(n.beat.slots for n in self.membership.nodes.values()), "pythons": self.membership.pythons()}  # fmt: skip

    async def _make_lane(self, msg: Msg) -> Any:
        self._peers.check(msg.data, "the client")
        lane = messages.read_lane_request(msg.data).lane
        await self._ensure_lane(lane)
        return {"state": self.membership.lanes[lane.id], "pythons": self.membership.pythons()}

    async def _ensure_lane(self, lane: Lane) -> int:
        """Make a lane unless it is there; the slots that serve it."""
        if lane.id not in self.membership.lanes:
            await streams.ensure_lane(self.connection, lane.id, msgspec.json.encode(lane).decode())
        self.membership.on_lane(lane)
        self._announce()
        return self.membership.lanes[lane.id].slots

    async def _lanes(self, _msg: Msg) -> Any:
        return self.membership.table()

    async def _oldest(self, msg: Msg) -> int:
        """See `streams.oldest_work`."""
        lane, _, session = bytes(msg.data).decode().partition(" ")
        return await streams.oldest_work(self.connection, lane, session)

    async def _status(self, _msg: Msg) -> Any:
        report = await status_report(self.connection, self.membership, self._loop.time())
        return report if self.servers is None else {**report, "cluster": self.servers()}

    async def _queues(self, _msg: Msg) -> Any:
        return await queues_report(self.connection, self.membership)

    async def _explain(self, msg: Msg) -> Any:
        return await explain(self.connection, self.membership, bytes(msg.data).decode(), self._loop.time())

    async def _join(self, msg: Msg) -> Any:
        if self._enrolment is None:
            raise errors.CredentialRefused("this farm takes nobody in")
        self._peers.check(msg.data, "the machine that wants to join")
        return await self._enrolment.join(messages.read_join(msg.data), self._system)
