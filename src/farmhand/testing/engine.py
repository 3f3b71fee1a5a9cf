"""The engine's queues, as far as the core can tell: WORK, RESULT, pulls, acknowledgements, and a restart.

WORK gives each message to one open request of its lane, again after ACK_WAIT_S without a sign, again after a NAK, and forgets
it after an ACK, a delete or a purge. RESULT keeps order and delivers to each session what it has not seen. A restart keeps
messages and what is unacknowledged; it forgets open requests, readers, and the ids of work that is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from farmhand.model import limits
from farmhand.model.ids import LaneId
from farmhand.model.messages import Report, Work
from farmhand.testing.actor import Actor
from farmhand.testing.publisher import Storing

if TYPE_CHECKING:
    from farmhand.testing.client import SimClient
    from farmhand.testing.node import SimNode
    from farmhand.testing.world import World

STORED: Final = ""
FULL: Final = "full"


class StoredWork:
    """A message in WORK."""

    __slots__ = ("body", "deadline", "holder", "lane", "msg_id", "sequence", "session", "work")

    def __init__(self, sequence: int, lane: LaneId, work: Work, body: list[Any], msg_id: str) -> None:
        self.sequence = sequence
        self.lane = lane
        self.work = work
        self.session = work.session
        self.body = body
        self.msg_id = msg_id
        self.holder: str | None = None  # the incarnation that it was delivered to
        self.deadline = 0.0


class Pull:
    """An open request for one message."""

    __slots__ = ("life", "node", "open")

    def __init__(self, node: SimNode, life: int) -> None:
        self.node = node
        self.life = life
        self.open = True


class Engine:
    """See the head of this file. Its methods run when a message has arrived at the engine."""

    def __init__(self, world: World) -> None:
        self.up = True
        self.full = False
        self.epoch = 0  # counts starts
        self.work: dict[int, StoredWork] = {}
        self.results: dict[str, list[tuple[int, Report, list[Any]]]] = {}
        self.covered: dict[int, set[int]] = {}  # indices of a token with a stored report
        self._world = world
        self._sequence = 0
        self._ready: dict[LaneId, deque[int]] = {}
        self._pulls: dict[LaneId, deque[Pull]] = {}
        self._work_ids: dict[str, int] = {}
        self._result_ids: dict[str, int] = {}
        self._readers: dict[str, tuple[SimClient, int, int]] = {}  # the connection that reads a session's results

    # ---- life

    def stop(self) -> None:
        """The process is killed."""
        self.up = False
        self.epoch += 1
        self._pulls.clear()
        self._readers.clear()
        self._world.log("the engine died")

    def start(self) -> None:
        """The process is there again, with what it had stored."""
        self.up = True
        here = {message.msg_id for message in self.work.values()}
        self._work_ids = {msg_id: sequence for msg_id, sequence in self._work_ids.items() if msg_id in here}
        self._world.log("the engine is up")

    # ---- WORK

    def publish_work(self, client: SimClient, number: int, lane: LaneId, work: Work, body: list[Any]) -> None:
        """A session publishes a batch."""
        msg_id = f"{work.token:x}"
        sequence = self._work_ids.get(msg_id, 0)
        if not sequence:
            if self.full:
                self._reply(client, number, 0, FULL)
                return
            self._sequence = sequence = self._sequence + 1
            self.work[sequence] = StoredWork(sequence, lane, work, body, msg_id)
            self._work_ids[msg_id] = sequence
            self._ready.setdefault(lane, deque()).append(sequence)
            self._world.log("work %d: %s of %s, %s", sequence, msg_id, work.session, body)
            self._deliver(lane)
        self._reply(client, number, sequence, STORED)

    def _reply(self, actor: Storing, number: int, sequence: int, problem: str) -> None:
        if not self._world.network.lose_answer():
            self._world.network.down(actor, actor.publisher.on_ack, (number, sequence, problem))

    def pull(self, node: SimNode, life: int, lane: LaneId, wait: bool) -> None:
        """A node asks for one message. The request of one that is dead by now is dropped with its connection."""
        pull = Pull(node, life)
        if life != node.life:
            return
        if wait:
            self._pulls.setdefault(lane, deque()).append(pull)
            self._world.schedule.after(limits.FREE_PULL_S, self._expire, pull, lane)
            self._deliver(lane)
        elif ready := self._ready.get(lane):
            self._hand_out(self.work[ready.popleft()], pull, wait=False)
        else:
            self._world.network.down(node, node.on_pull_ended, (lane, False))

    def _expire(self, pull: Pull, lane: LaneId) -> None:
        waiting = self._pulls.get(lane)
        if pull.open and waiting and pull in waiting:
            waiting.remove(pull)
            if pull.life == pull.node.life:
                self._world.network.down(pull.node, pull.node.on_pull_ended, (lane, True))

    def forget_pulls(self, node: SimNode) -> None:
        """A connection has closed, and with it the interest in its answers."""
        for lane, waiting in self._pulls.items():
            self._pulls[lane] = deque(pull for pull in waiting if pull.node is not node)

    def _deliver(self, lane: LaneId) -> None:
        ready, waiting = self._ready.get(lane), self._pulls.get(lane)
        while ready and waiting:
            pull = waiting.popleft()
            pull.open = False
            if pull.life == pull.node.life:
                self._hand_out(self.work[ready.popleft()], pull, wait=True)

    def _hand_out(self, message: StoredWork, pull: Pull, *, wait: bool) -> None:
        message.holder = pull.node.incarnation
        self._touch(message, limits.ACK_WAIT_S)
        pending = len(self._ready.get(message.lane, ()))
        self._world.log("work %d goes to %s", message.sequence, pull.node.incarnation)
        self._world.network.down(pull.node, pull.node.on_work, (message, pending, wait))

    def _touch(self, message: StoredWork, seconds: float) -> None:
        message.deadline = self._world.schedule.now + seconds
        self._world.schedule.at(message.deadline, self._on_ack_wait, message, message.deadline)

    def _on_ack_wait(self, message: StoredWork, deadline: float) -> None:
        if message.deadline == deadline and message.holder is not None and message.sequence in self.work:
            self._world.log("work %d was not renewed", message.sequence)
            self._requeue(message)

    def _requeue(self, message: StoredWork) -> None:
        message.holder = None
        self._ready.setdefault(message.lane, deque()).appendleft(message.sequence)
        self._deliver(message.lane)

    def renew(self, sequence: int) -> None:
        """A node still has it."""
        message = self.work.get(sequence)
        if message is not None and message.holder is not None:
            self._touch(message, limits.ACK_WAIT_S)

    def nak(self, sequence: int) -> None:
        """A node gives it back."""
        message = self.work.get(sequence)
        if message is not None and message.holder is not None:
            self._requeue(message)

    def ack(self, sequence: int) -> None:
        """A node is finished with it, or a session is over."""
        self._remove(sequence, "acknowledged")

    def delete(self, actor: Actor, number: int, sequence: int) -> None:
        """The steward removes it."""
        self._remove(sequence, "deleted")
        self._world.network.down(actor, actor.answer, (number, None))

    def _remove(self, sequence: int, why: str) -> None:
        message = self.work.pop(sequence, None)
        if message is None:
            return
        if message.holder is None:
            self._ready[message.lane].remove(sequence)
        self._world.log("work %d %s", sequence, why)
        self._world.invariants.on_removed(message, self.covered.get(message.work.token, set()))

    def purge(self, actor: Actor, number: int, session: str, results: bool) -> None:
        """A session is over: its work goes, or its results. The answer is the newest sequence of work."""
        if results:
            self.results.pop(session, None)
        else:
            for message in [m for m in self.work.values() if m.session == session]:
                del self.work[message.sequence]
                if message.holder is None:
                    self._ready[message.lane].remove(message.sequence)
            self._world.log("the work of %s is purged", session)
        self._world.network.down(actor, actor.answer, (number, self._sequence))

    # ---- what the steward and the sessions ask

    def delivered(self, actor: Actor, number: int, lane: LaneId) -> None:
        """Sequences of a lane from the first to the last delivered that are still there."""
        out = [s for s, m in self.work.items() if m.lane == lane and m.holder is not None]
        found = [s for s, m in self.work.items() if m.lane == lane and min(out) <= s <= max(out)] if out else []
        self._world.network.down(actor, actor.answer, (number, found))

    def message_at(self, actor: Actor, number: int, sequence: int) -> None:
        """One message, or None."""
        self._world.network.down(actor, actor.answer, (number, self.work.get(sequence)))

    def oldest(self, actor: Actor, number: int, lane: LaneId, session: str) -> None:
        """The first sequence of a session's work in a lane, 0 for none."""
        found = min((s for s, m in self.work.items() if m.lane == lane and m.session == session), default=0)
        self._world.network.down(actor, actor.answer, (number, found))

    def census(self, actor: Actor, number: int) -> None:
        """The sessions that have something stored, and those that are connected."""
        stored = {message.session for message in self.work.values()} | set(self.results)
        connected = {client.name for client in self._world.clients if client.alive and not client.cut_up}
        self._world.network.down(actor, actor.answer, (number, (sorted(stored), connected)))

    def forward(self, actor: Actor, number: int, target: Actor, action: Callable[..., None], *args: Any) -> None:
        """A request to another process; one that is not there is no responder, and the asker is told at once."""
        if target.alive:
            self._world.network.down(target, action, (actor, number, *args))
        else:
            self._world.network.down(actor, actor.answer, (number, None))

    def respond(self, actor: Actor, number: int, value: Any) -> None:
        """The other process's answer."""
        self._world.network.down(actor, actor.answer, (number, value))

    # ---- RESULT

    def publish_result(
        self, actor: Storing, number: int, msg_id: str, session: str, report: Report, body: list[Any]
    ) -> None:
        """A node, or the steward, stores a report."""
        sequence = self._result_ids.get(msg_id, 0)
        if not sequence:
            self._sequence = sequence = self._sequence + 1
            self._result_ids[msg_id] = sequence
            self.results.setdefault(session, []).append((sequence, report, body))
            self.covered.setdefault(report.token, set()).update(range(report.first, report.first + report.count))
            self._world.invariants.on_report_stored(report)
            self._world.log("report %d on %x: %d+%d from %s %s", sequence, report.token, report.first, report.count, report.node,
                            [(m.index, m.kind.name) for m in report.marks])  # fmt: skip
            self._push(session, sequence, report, body)
        self._reply(actor, number, sequence, STORED)

    def _push(self, session: str, sequence: int, report: Report, body: list[Any]) -> None:
        reader = self._readers.get(session)
        if reader is not None and (reader[0].life, reader[0].connection) == reader[1:]:
            self._world.network.down(reader[0], reader[0].on_result, (sequence, report, body))

    def read(self, client: SimClient, after: int) -> None:
        """A session reads its results, those after a sequence."""
        self._readers[client.name] = (client, client.life, client.connection)
        for sequence, report, body in self.results.get(client.name, ()):
            if sequence > after:
                self._push(client.name, sequence, report, body)

    # ---- core messages

    def broadcast(self, actors: list[Any], method: str, args: tuple[Any, ...]) -> None:
        """Hand a core message to everybody who has subscribed."""
        for actor in actors:
            self._world.network.down(actor, getattr(actor, method), args, core=True)
