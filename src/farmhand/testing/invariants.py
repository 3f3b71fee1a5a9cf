"""What must hold after each event of the simulated world, and when it has come to rest.

P2 a task has one outcome and keeps it. P3 the report of an attempt that was given up changes nothing. P4 when the faults
stop, everything finishes. P6 what is finished is forgotten. P9 nobody is blamed for a death that is not his.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from farmhand.core import session as core
from farmhand.core.holding import Held, HeldState
from farmhand.core.tasks import Batch, Group, Task, TaskState
from farmhand.model import limits
from farmhand.model.ids import LaneId
from farmhand.model.messages import Report
from farmhand.model.outcome import Kind
from farmhand.testing.calls import HANG, OK, RAISE, Call

if TYPE_CHECKING:
    from farmhand.testing.client import SimClient
    from farmhand.testing.engine import StoredWork
    from farmhand.testing.node import SimNode
    from farmhand.testing.slot import SimSlot
    from farmhand.testing.steward import SimSteward
    from farmhand.testing.world import World

_OUT = (TaskState.SENT, TaskState.RUNNING)


class BrokenPromise(AssertionError):
    """A promise does not hold in this world."""


def require(truth: object, what: str, *facts: object) -> None:
    """Raise `BrokenPromise` unless it is true."""
    if not truth:
        raise BrokenPromise(f"{what}: " + ", ".join(map(repr, facts)))


class Invariants:
    """See the head of this file. Its methods are told what happens and raise `BrokenPromise`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._bodies: dict[int, list[Call | None]] = {}  # by token
        self._over: set[str] = set()  # sessions whose work was purged, rightly or not

    # ---- outcomes

    def on_outcome(self, call: Call, outcome: str) -> None:
        """A call's future has been given its outcome."""
        require(call.outcome is None, "P2: a second outcome", call, call.outcome, outcome)
        call.outcome = outcome
        self._world.client_named(call.session).open -= 1
        self._world.log("%s: %s", call, outcome)

    def on_delivered(self, client: SimClient, effect: core.Delivered, report: Report | None, body: list[Any]) -> None:
        """Tasks have succeeded."""
        assert report is not None
        for task, position in effect.values:
            require(task.token == report.token, "P3: a stale attempt ended a task", task.cargo, report)
            require(body[position] is task.cargo, "a task got the value of another", task.cargo, body[position])
            require(OK in task.cargo.fates, "a task that never succeeds has succeeded", task.cargo)
            self.on_outcome(task.cargo, "SUCCEEDED")

    def on_ended(self, client: SimClient, effect: core.Ended, report: Report | None) -> None:
        """A task has ended otherwise."""
        task, kind = effect.task, effect.mark.kind
        call: Call = task.cargo
        if report is not None:
            require(task.token == report.token, "P3: a stale attempt ended a task", call, report)
        match kind:
            case Kind.RAISED:
                require(RAISE in call.fates, "a task that never raises has raised", call)
            case Kind.CRASHED:
                enough = task.deaths >= limits.DEATHS_MAX or task.losses >= limits.LOSSES_MAX
                require(enough, "P9: crashed too early", call, task.deaths, task.losses)
            case Kind.TIMED_OUT:
                timeout = task.group.profile.timeout
                require(timeout, "a task without a timeout has timed out", call)
                enough = HANG not in call.fates and call.seconds < timeout - limits.OVERDUE_S
                require(not enough, "a task that had time enough has timed out", call)
            case Kind.KILLED:
                require(task.killing, "a task that nobody stopped was killed", call)
            case Kind.ENVIRONMENT:
                require(task.group.profile.environment, "a task without an environment has failed for it", call)
            case _:
                require(False, "an outcome that cannot be", call, kind)
        self.on_outcome(call, kind.name)

    # ---- attempts and messages

    def on_sent(self, client: SimClient, batch: Batch) -> None:
        """A session publishes a batch."""
        require(batch.token not in self._bodies, "a token was used twice", batch.token)
        self._bodies[batch.token] = [task.cargo if task is not None else None for task in batch.tasks]
        window = client.core.windows[batch.group.lane_id]
        most = max(limits.WINDOW_MIN, window.slots * limits.BATCHES_PER_SLOT)
        out = [other for other in client.core.batches.values() if other.group.lane_id == batch.group.lane_id]
        require(len(out) <= most, "the window of a lane is exceeded", client.name, len(out), most)
        require(not client.bound or len(client.core.batches) <= client.bound, "the bound is exceeded", client.name)
        careful = [task for task in batch.tasks if task is not None and task.careful]
        require(not careful or batch.count == 1, "a careful task travels with others", careful)

    def on_report_stored(self, report: Report) -> None:
        """A report is in RESULT. A loss may be blamed on everything in the message."""
        if report.slot < 0 and report.marks and report.marks[0].kind is Kind.LOST:
            for call in self._bodies[report.token]:
                if call is not None:
                    call.blamable += 1

    def on_slot_death(self, held: Held, running: int) -> None:
        """A slot died; the call that it was at, or was about to start, may be blamed."""
        if held.state is HeldState.GONE:
            return
        index = running if held.done <= running < held.end else held.done
        call = self._bodies[held.work.token][index]
        if call is not None:
            call.blamable += 1

    def on_removed(self, message: StoredWork, covered: set[int]) -> None:
        """A message has left WORK by an acknowledgement or a delete."""
        if message.session in self._over or self._world.client_named(message.session).over:
            return
        missing = set(range(message.work.count)) - covered
        require(not missing, "work is gone before its reports were stored", message.sequence, missing)

    def on_session_over(self, session: str) -> None:
        """The steward purges a session's work."""
        self._over.add(session)

    def on_left(self, node: SimNode, held: Held, way: str) -> None:
        """A message has left a node."""
        require(not held.cargo.left, "a message left a node twice", node.name, held.sequence, held.cargo.left, way)
        require(way == "ack" or held.done == 0, "a message was handed back after it started", held.sequence)
        held.cargo.left = way

    def on_run(self, slot: SimSlot, held: Held) -> None:
        """A slot is given a batch."""
        require(not slot.busy, "a slot was given work while it was busy", slot.node.name, slot.number)
        wanted = held.work.profile.environment
        require(
            not slot.up or slot.worn == wanted, "a call runs in another environment", slot.node.name, slot.worn, wanted
        )

    # ---- state

    def check_session(self, client: SimClient) -> None:
        """Each task is in one place, and the counts are right."""
        session, places = client.core, 0
        in_flight: dict[LaneId, int] = {}
        for token, batch in session.batches.items():
            there = 0
            for task in batch.tasks:
                if task is not None:
                    there += 1
                    if task.token != token or task.state not in _OUT:
                        require(False, "a task is in a batch and elsewhere", task.cargo, task.state)
            places += there
            in_flight[batch.group.lane_id] = in_flight.get(batch.group.lane_id, 0) + 1
            if not batch.left == there > 0:
                require(False, "a batch counts wrongly, or is finished and kept", client.name, token)
        for lane, window in session.windows.items():
            require(
                window.in_flight == in_flight.get(lane, 0), "a window counts wrongly", client.name, window.in_flight
            )
        for group in client.groups:
            places += self._check_backlog(group)
        for _, _, task in session._backoff:
            places += task.state is TaskState.BACKOFF
        require(
            places == client.open == session.open, "a task is in no place or in two", client.name, places, client.open
        )

    def _check_backlog(self, group: Group) -> int:
        waiting = 0
        for task in group.backlog:
            if task.state is TaskState.WAITING:
                waiting += 1
            elif task.state is not TaskState.DONE:
                require(False, "a task waits and is elsewhere", task.cargo, task.state)
        require(waiting == group.waiting, "a group counts wrongly", waiting, group.waiting)
        require(not waiting or group.active, "a group with work is not in its lane's round")
        return waiting

    def check_tasks(self, client: SimClient) -> None:
        """Nobody is blamed for a death that is not his."""
        for call in client.calls:
            task: Task = call.task
            blamed = task.deaths + task.losses
            require(blamed <= call.blamable, "P9: a task is blamed without a reason", call, blamed, call.blamable)

    def check_node(self, node: SimNode) -> None:
        """A slot does one thing, and a message is in one place."""
        holder = node.holder
        busy = [slot for held in holder.by_slot.values() for slot in held.slots]
        require(len(set(busy)) == len(busy), "a slot has two messages", node.name, busy)
        require(not set(busy) & set(holder.idle), "a slot is idle and busy", node.name, busy, holder.idle)
        require(len(set(holder.idle)) == len(holder.idle), "a slot is idle twice", node.name, holder.idle)
        for number in holder.idle:
            require(not node.slots[number].busy, "a slot is taken for idle", node.name, number)
        for held in holder.held.values():
            match held.state:
                case HeldState.QUEUED:
                    fits = held in holder.queue
                case HeldState.RUNNING:
                    fits = holder.by_slot.get(held.slots[0]) is held
                case HeldState.STORING:
                    fits = held.unstored > 0
                case _:
                    fits = False
            require(
                fits and not held.cargo.left, "a message is kept and is nowhere", node.name, held.sequence, held.state
            )
        require(len(holder.queue) <= len(holder.held), "a message is queued and not held", node.name)
        for held in holder.by_slot.values():
            require(len(held.slots) == held.cpus, "a wide task has lost a slot", node.name, held.slots, held.cpus)

    def check_steward(self, steward: SimSteward) -> None:
        """A lost incarnation never counts as living."""
        for member in steward.membership.nodes.values():
            require(member.beat.incarnation not in steward.lost, "a lost incarnation is back", member.beat.incarnation)

    # ---- the end

    def unrest(self) -> str:
        """What is not finished yet; empty when the world has come to rest."""
        for client in self._world.clients:
            if not client.over:
                for call in client.calls:
                    if call.outcome is None:
                        return f"P4: {call} has no outcome; it is {call.task.state.name}"
        if self._world.engine.work:
            return f"P4: work is left in the engine: {sorted(self._world.engine.work)}"
        for node in self._world.nodes:
            if node.alive and (node.holder.held or node.holder.by_slot or node.holder.queue):
                return f"P4: {node.name} still holds messages"
        return ""

    def at_rest(self) -> None:
        """P6: what is finished is forgotten."""
        for client in self._world.clients:
            if not client.over:
                session = client.core
                self.check_tasks(client)
                require(not session.batches, "P6: a batch is kept", client.name)
                require(
                    not any(w.in_flight for w in session.windows.values()), "P6: a window is not empty", client.name
                )
                require(not any(group.waiting for group in client.groups), "P6: a backlog is not empty", client.name)
                require(not session.unfinished() and not client.open, "P6: a task is kept", client.name)
