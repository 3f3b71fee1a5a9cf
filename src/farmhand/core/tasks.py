"""The records that a session keeps: tasks, the groups they batch in, and the batches under way.

BLOCKED  --inputs-->  WAITING  --plan-->  SENT  --started-->  RUNNING  --report-->  DONE
                         ^                 |                     |
                         +---- BACKOFF <---+---------------------+   lost, returned, or a retry

`TRANSITIONS` is that picture as a table; `Task.to` refuses everything else.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from farmhand.model import limits
from farmhand.model.ids import LaneId, Token
from farmhand.model.messages import Profile
from farmhand.model.needs import Lane
from farmhand.model.retry import Retry


class TaskState(enum.IntEnum):
    """Where a task is. DONE is final."""

    WAITING = 0  # in its group's backlog
    SENT = 1  # in a published batch
    RUNNING = 2  # a node has said so
    BACKOFF = 3  # waits for its next try
    DONE = 4  # has its outcome
    BLOCKED = 5  # waits for the value of another task


TRANSITIONS: Final[dict[TaskState, frozenset[TaskState]]] = {
    TaskState.BLOCKED: frozenset({TaskState.WAITING, TaskState.SENT, TaskState.DONE}),
    TaskState.WAITING: frozenset({TaskState.SENT, TaskState.BLOCKED, TaskState.DONE}),
    TaskState.SENT: frozenset(
        {TaskState.RUNNING, TaskState.WAITING, TaskState.BLOCKED, TaskState.BACKOFF, TaskState.DONE}
    ),
    TaskState.RUNNING: frozenset({TaskState.WAITING, TaskState.BLOCKED, TaskState.BACKOFF, TaskState.DONE}),
    TaskState.BACKOFF: frozenset({TaskState.WAITING, TaskState.BLOCKED, TaskState.DONE}),
    TaskState.DONE: frozenset(),
}


class Links:
    """What ties a task to others. `inputs` are looked at once, when the session gets the task."""

    __slots__ = ("dependents", "inputs", "unfed", "waits")

    def __init__(self, inputs: Iterable[Task] = ()) -> None:
        self.inputs: tuple[Task, ...] = tuple(dict.fromkeys(inputs))
        self.waits = 0  # inputs without a value
        self.dependents: list[Task] = []  # that wait for this task's value
        self.unfed: Task | None = None  # the input, near or far, that has ended without a value


class Task:
    """One call. `cargo` is whatever the shell keeps with it (a future, packed arguments); the core never looks inside."""

    __slots__ = ("attempts", "careful", "cargo", "deaths", "failures", "group", "index", "killing", "links", "losses",
                 "size", "state", "succeeded", "token")  # fmt: skip

    def __init__(self, group: Group, size: int, cargo: Any) -> None:
        self.group = group
        self.size = size
        self.cargo = cargo
        self.state = TaskState.WAITING
        self.token = Token(0)  # the attempt that may end it
        self.index = 0  # within that attempt's batch
        self.attempts = 0
        self.failures = 0  # retries used
        self.deaths = 0  # slots, nodes or agents that died while it was known to run
        self.losses = 0  # nodes lost without proof that it was running
        self.careful = False  # travels alone and is announced before it runs
        self.killing = False
        self.succeeded = False  # DONE with a value
        self.links: Links | None = None  # to inputs and dependents, if it has any

    @property
    def setbacks(self) -> tuple[int, int, int]:
        """What is counted against it."""
        return self.failures, self.deaths, self.losses

    def to(self, state: TaskState) -> None:
        """Move to `state`."""
        assert state in TRANSITIONS[self.state], f"{self.state.name} -> {state.name}"
        self.state = state


class Group:
    """Tasks of one profile in one lane: they may share a message, and their durations are learned together."""

    __slots__ = ("active", "backlog", "depth", "lane", "lane_id", "mean", "profile", "retry", "waiting")

    def __init__(self, lane: Lane, profile: Profile, retry: Retry, depth: int = 0) -> None:
        self.depth = depth  # tasks above these that submitted one another
        self.lane = lane
        self.lane_id: LaneId = lane.id
        self.profile = profile
        self.retry = retry
        self.backlog: deque[Task] = deque()  # may hold cancelled tasks; they are skipped
        self.waiting = 0  # tasks in the backlog that are not cancelled
        self.mean = -1.0  # learned seconds a task, negative while nothing is known
        self.active = False  # in its lane's round

    def learn(self, seconds: float, count: int) -> None:
        """`count` calls took `seconds` in all."""
        mean = seconds / count
        self.mean = mean if self.mean < 0 else self.mean + limits.DURATION_WEIGHT * (mean - self.mean)

    def most(self) -> int:
        """Tasks for a message at most: about BATCH_SECONDS of work."""
        if self.mean < 0 or self.mean > limits.LONG_TASK_S or self.profile.state.process:
            return 1
        return max(1, min(int(limits.BATCH_SECONDS / max(self.mean, 1e-7)), limits.BATCH_TASKS_MAX))

    def batch_size(self, slots: int) -> int:
        """Tasks for the next message, shared out among the slots when little is left."""
        most = self.most()
        if most == 1:
            return 1
        share = -(-self.waiting // max(slots, 1))
        worthwhile = int(limits.SPLIT_SECONDS / max(self.mean, 1e-7))
        return max(1, min(most, max(share, worthwhile)))


class Batch:
    """A published message. A task is replaced by None once it has an outcome or has left this attempt."""

    __slots__ = (
        "attempt",
        "count",
        "group",
        "left",
        "missed",
        "sent_at",
        "sequence",
        "tasks",
        "token",
    )

    def __init__(self, token: Token, group: Group, tasks: Sequence[Task | None], now: float) -> None:
        self.token = token
        self.group = group
        self.tasks: list[Task | None] = list(tasks)
        self.count = len(tasks)
        self.left = len(tasks)
        self.sent_at = now
        self.sequence = 0  # in the engine's stream, 0 until it is stored
        self.missed = 0  # times that the engine was asked and did not have it any more
        self.attempt = max((task.attempts for task in tasks if task is not None), default=1)


class Window:
    """What a session has under way in one lane, and which groups want to send there."""

    __slots__ = ("in_flight", "lane", "levels", "nested", "ready", "rounds", "slots")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.ready = False  # the lane exists; work published before that would wait unseen
        self.slots = 0  # that serve the lane, as the steward last said
        self.in_flight = 0  # batches published and not yet closed
        self.nested = False  # some of its groups are of children
        self.levels: dict[int, int] = {}  # the same by depth
        self.rounds: deque[Group] = deque()

    def count(self, depth: int, change: int) -> None:
        """So many more batches of this depth are under way."""
        self.levels[depth] = self.levels.get(depth, 0) + change
        if depth and not self.levels[depth]:
            del self.levels[depth]

    def under_way(self, depth: int = 0) -> int:
        """Batches that stand in the way of one of that depth. Those less deep do not: they may wait for it."""
        return sum(count for level, count in self.levels.items() if level >= depth)

    def room(self, depth: int = 0) -> int:
        """Batches that may be published now."""
        if not self.ready:
            return 0
        return max(limits.WINDOW_MIN, self.slots * limits.BATCHES_PER_SLOT) - self.under_way(depth)

    def deepest(self) -> int:
        """The depth of the group that comes next."""
        return max(group.depth for group in self.rounds) if self.nested else 0

    def next_group(self) -> Group:
        """Take the group that comes next out of the round: of the deepest the first, for others may wait for it."""
        if not self.nested:
            return self.rounds.popleft()
        deepest = self.deepest()
        at = next(at for at, group in enumerate(self.rounds) if group.depth == deepest)
        group = self.rounds[at]
        del self.rounds[at]
        return group


class Counts(msgspec.Struct):
    """What a session has done so far."""

    submitted: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    stale: int = 0  # reports of attempts that were given up, dropped
    rerun: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
