"""A session: who waits for the outcomes of tasks. It owns them from the submission to the one outcome.

What it decides: how many tasks go into a message and how many messages are under way; whether a reported end is the outcome,
a reason to run again, or too late to count. What it must never do: give a task two outcomes, take the word of an attempt
that it has given up, or keep a task waiting that nothing will ever bring back.

Rule 1: an attempt is a token. Only a report that carries the token under which a task is out now may end it.
Rule 2: every token is closed exactly once: by reports for all its indices, by a loss, or by a refusal.
Rule 3: a task is in one place: a backlog, the back-off heap, one batch, or among those that wait for inputs (`feeding`).
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from farmhand.core.effects import CheckLane, Delivered, Effect, Ended, Running, Send, Stop
from farmhand.core.feeding import Feeding
from farmhand.core.tasks import Batch, Counts, Group, Task, TaskState, Window
from farmhand.model import limits
from farmhand.model.ids import LaneId, Token
from farmhand.model.messages import Report
from farmhand.model.needs import Lane
from farmhand.model.outcome import Kind, Mark

if TYPE_CHECKING:
    from farmhand.core.family import Family


__all__ = ["CheckLane", "Delivered", "Effect", "Ended", "Running", "Send", "Session", "Stop"]


class Session:
    """See the head of this file. `secret` makes tokens unguessable; `bound` limits batches under way, 0 for no limit."""

    def __init__(self, secret: bytes, bound: int = 0) -> None:
        self.counts = Counts()
        self.feeding = Feeding()
        self.batches: dict[Token, Batch] = {}
        self.windows: dict[LaneId, Window] = {}
        self.families: dict[tuple[Token, int], Family] = {}  # of the tasks that have submitted, by attempt and index
        self.orphaned: list[Family] = []  # whose parents have ended
        self.full = False  # the engine has no space
        self._secret = secret
        self._bound = bound
        self._sequence = 0
        self._backoff: list[tuple[float, int, Task]] = []  # heap; the number only breaks ties
        self._refused = False  # the engine did not take the last publish: one at a time until it takes one again
        self._probe_at = 0.0
        self._checked_at = 0.0
        self._stops: dict[
            tuple[int, int], float
        ] = {}  # orders that no report has answered, and how often to repeat them
        self._stop_at = 0.0

    # ---- submitting

    def window(self, lane: Lane) -> Window:
        """The window of a lane, made on first use."""
        found = self.windows.get(lane.id)
        if found is None:
            found = self.windows[lane.id] = Window(lane)
        return found

    def on_submitted(self, group: Group, tasks: Iterable[Task]) -> None:
        """Accept tasks of one group. `plan` sends them when there is room. Their inputs were submitted before."""
        tasks = list(tasks)
        self.counts.submitted += len(tasks)
        admit = self.feeding.admit
        self._queue(group, [task for task in tasks if task.links is None or admit(task)])

    def _queue(self, group: Group, tasks: list[Task]) -> None:
        group.backlog.extend(tasks)
        group.waiting += len(tasks)
        self._activate(group)

    def _activate(self, group: Group) -> None:
        if not group.active and group.waiting:
            group.active = True
            window = self.window(group.lane)
            window.nested = window.nested or group.depth > 0
            window.rounds.append(group)

    def on_input(self, source: Task) -> None:
        """What stands for an input from elsewhere is DONE, and has `succeeded` or not."""
        if not source.succeeded:
            self.feeding.on_ended(source)
        elif source.links is not None:
            for freed in self.feeding.on_value(source):
                self._queue(freed.group, [freed])

    def on_slots(self, lane: LaneId, slots: int) -> None:
        """The steward says that the lane exists and how many slots serve it."""
        if window := self.windows.get(lane):
            window.ready = True
            window.slots = slots

    def plan(self, now: float) -> list[Effect]:
        """Batches to publish now, and who has ended with an input. Call it after any other event."""
        effects: list[Effect] = [*self.feeding.tell()]
        self.counts.failed += len(effects)
        if self._refused:
            if now < self._probe_at:
                return effects
            self._probe_at = now + limits.STORE_RETRY_S
        while (window := self._next_window()) is not None:
            group = window.next_group()
            tasks = self._take(group, window.slots)
            if group.waiting:
                window.rounds.append(group)
            else:
                group.active = False
            if tasks:
                effects.append(Send(self._open(group, window, tasks, now)))
                if self._refused:
                    break  # one probe is enough to learn whether the engine takes work again
        return effects

    def _next_window(self) -> Window | None:
        """The lane that may send next: the one with the least under way, so that a bound starves no lane."""
        best: Window | None = None
        for window in self.windows.values():
            if not window.rounds:
                continue
            depth = window.deepest()
            if window.room(depth) <= 0 or self._bounded(depth):
                continue
            if best is None or window.in_flight < best.in_flight:
                best = window
        return best

    def _bounded(self, depth: int) -> bool:
        return self._bound > 0 and sum(w.under_way(depth) for w in self.windows.values()) >= self._bound

    def _take(self, group: Group, slots: int) -> list[Task]:
        """The next tasks of a group for one message. A careful task travels alone."""
        tasks: list[Task] = []
        wanted, size = group.batch_size(slots), 0
        backlog = group.backlog
        while backlog and len(tasks) < wanted:
            task = backlog[0]
            if task.state is not TaskState.WAITING:
                backlog.popleft()  # cancelled meanwhile; it is no longer counted
                continue
            if tasks and (task.careful or size + task.size > limits.BATCH_BYTES_MAX):
                break
            backlog.popleft()
            size += task.size
            tasks.append(task)
            if task.careful:
                break
        group.waiting -= len(tasks)
        if not group.waiting:
            backlog.clear()  # only cancelled tasks are left in it
        if tasks:
            self.feeding.follow(tasks, group)
        return tasks

    def _open(self, group: Group, window: Window, tasks: list[Task], now: float) -> Batch:
        self._sequence += 1
        token = self._token(self._sequence)
        for index, task in enumerate(tasks):
            task.state = TaskState.SENT
            task.token = token
            task.index = index
            task.attempts += 1
        batch = Batch(token, group, tasks, now)
        self.batches[token] = batch
        window.in_flight += 1
        window.count(group.depth, 1)
        return batch

    def adopt(self, token: Token, group: Group, tasks: list[Task | None], sequence: int, now: float) -> None:
        """Take over a batch that an earlier life of this session has sent. None stands for a task that has its outcome.

        The tasks are new here, and nowhere else. `sequence`: as in `on_stored`.
        """
        batch = Batch(token, group, tasks, now)
        batch.sequence = sequence
        for index, task in enumerate(tasks):
            if task is None:
                batch.left -= 1
                continue
            task.to(TaskState.SENT)
            task.token, task.index, task.attempts = token, index, task.attempts + 1
            self.counts.submitted += 1
        if batch.left:
            self.batches[token] = batch
            window = self.window(group.lane)
            window.in_flight += 1
            window.count(group.depth, 1)

    def _token(self, sequence: int) -> Token:
        digest = hashlib.blake2b(sequence.to_bytes(8, "big"), key=self._secret, digest_size=8).digest()
        return Token(int.from_bytes(digest, "big") >> 1)

    # ---- what the engine says about a publish

    def on_stored(self, token: Token, sequence: int) -> None:
        """The engine has this batch at that place of its stream; from now on it is accepted work."""
        if batch := self.batches.get(token):
            batch.sequence = sequence
        self.full = self._refused = False

    def on_refused(self, token: Token, now: float, *, full: bool) -> list[Effect]:
        """The engine did not take this batch. Its tasks go back to where they came from, and one batch tries again later."""
        self.full = full
        self._refused = True
        self._probe_at = now + limits.STORE_RETRY_S
        batch = self.batches.get(token)
        if batch is None:
            return []
        effects: list[Effect] = []
        for task in [t for t in reversed(batch.tasks) if t is not None]:
            task.attempts -= 1
            self.counts.rerun -= 1
            effects += self._again(batch, task)
        return effects

    # ---- what nodes and the steward say

    def on_started(self, token: Token, index: int, node: str) -> list[Effect]:
        """A node says that it runs this index of the batch now."""
        batch = self.batches.get(token)
        if batch is None:
            return [Stop([(token, index)])]  # an attempt that was given up, or was stored twice: it runs for nobody
        if not 0 <= index < batch.count:
            return []
        task = batch.tasks[index]
        if task is None or task.state is not TaskState.SENT:
            return []
        task.to(TaskState.RUNNING)
        return [Running(task, node)]

    def on_report(self, report: Report, now: float) -> list[Effect]:
        """A node, or the steward for a lost one, says how tasks of a batch ended."""
        if self._stops:
            self._forget_stops(report)
        batch = self.batches.get(Token(report.token))
        if batch is None or not 0 <= report.first <= report.first + report.count <= batch.count:
            self.counts.stale += max(0, report.count)
            return []
        marks = {mark.index: mark for mark in report.marks if mark.kind is not Kind.SUCCEEDED}
        effects: list[Effect] = []
        values: list[tuple[Task, int]] = []
        position = ran = 0
        for index in range(report.first, report.first + report.count):
            task, mark = batch.tasks[index], marks.get(index)
            has_body = mark is None or mark.kind is Kind.RAISED
            ran += has_body
            if task is None:
                self.counts.stale += 1
            elif mark is None:
                self._finish(batch, task)
                task.succeeded = True
                values.append((task, position))
                if task.links is not None:
                    for freed in self.feeding.on_value(task):
                        self._queue(freed.group, [freed])
            else:
                effects += self._on_mark(batch, task, mark, position if has_body else -1, report, now)
            position += has_body
        if values:
            self.counts.done += len(values)
            effects.append(Delivered(values))
        self._account(batch, report, ran)
        return effects

    def _forget_stops(self, report: Report) -> None:
        """What is reported need not be stopped."""
        for token, index in list(self._stops):
            if token == report.token and report.first <= index < report.first + report.count:
                del self._stops[token, index]

    def _account(self, batch: Batch, report: Report, ran: int) -> None:
        if not (0.0 <= report.seconds < math.inf and 0.0 <= report.cpu < math.inf):
            return  # a node that counts like this is not worth learning from
        self.counts.seconds += report.seconds
        self.counts.cpu += report.cpu
        if ran:
            batch.group.learn(report.seconds, ran)

    def _on_mark(self, batch: Batch, task: Task, mark: Mark, position: int, report: Report, now: float) -> list[Effect]:
        """One task did not succeed: run it again, or end it."""
        kind = mark.kind
        if task.killing and kind in (Kind.KILLED, Kind.RETURNED, Kind.LOST, Kind.CRASHED):
            return self._end(
                batch, task, Mark(mark.index, Kind.KILLED, mark.text, tail=mark.tail), -1, report.node, report.slot
            )
        if kind in (Kind.RETURNED, Kind.KILLED):  # KILLED unasked: a node believed that this session had ended
            return self._again(batch, task)
        if kind is Kind.LOST:
            return self._on_loss(batch, task, mark, report)
        retry = not task.killing and task.group.retry.allows(kind, task.failures)
        if kind is Kind.CRASHED:
            task.deaths += 1
            task.careful = True
            if not retry and task.deaths < limits.DEATHS_MAX:
                return self._again(batch, task)
        if retry:
            self._back_off(batch, task, now)
            return []
        return self._end(batch, task, mark, position, report.node, report.slot)

    def _on_loss(self, batch: Batch, task: Task, mark: Mark, report: Report) -> list[Effect]:
        """The node is gone. Only a task that was known to run is suspected of having killed it."""
        if task.state is TaskState.RUNNING:
            task.deaths += 1
        else:
            task.losses += 1
        if task.deaths >= limits.DEATHS_MAX or task.losses >= limits.LOSSES_MAX:
            crashed = Mark(mark.index, Kind.CRASHED, mark.text or "the node died each time", tail=mark.tail)
            return self._end(batch, task, crashed, -1, report.node, report.slot)
        task.careful = True
        # A node that lives after all, unknown to the steward, must not go on with it for nobody.
        return [self._stop(task, limits.STOP_TRIES), *self._again(batch, task)]

    def _end(
        self, batch: Batch, task: Task, mark: Mark, position: int = -1, node: str = "", slot: int = -1
    ) -> list[Effect]:
        self._finish(batch, task)
        self.feeding.on_ended(task)
        if mark.kind is Kind.KILLED:
            self.counts.cancelled += 1
        else:
            self.counts.failed += 1
        return [Ended(task, mark, position, node, slot)]

    def _finish(self, batch: Batch, task: Task) -> None:
        """The task has its outcome."""
        task.state = TaskState.DONE
        self._leave(batch, task)

    def _leave(self, batch: Batch, task: Task) -> None:
        if self.families and (family := self.families.get((batch.token, task.index))) is not None:
            self.end_family(family)
        batch.tasks[task.index] = None
        batch.left -= 1
        if batch.left == 0:
            del self.batches[batch.token]
            window = self.windows[batch.group.lane_id]
            window.in_flight -= 1
            window.count(batch.group.depth, -1)

    # ---- tasks with children, see `core.family`

    def end_family(self, family: Family) -> None:
        """The run of a parent is over: its children are to be stopped."""
        del self.families[family.token, family.index]
        self.orphaned.append(family)

    def _again(self, batch: Batch, task: Task) -> list[Effect]:
        """Back to the front of the backlog, under a new token when it is sent again. One that is to be stopped ends here."""
        if task.killing:
            self._stops.pop((task.token, task.index), None)
            return self._end(batch, task, Mark(task.index, Kind.KILLED))
        self._leave(batch, task)
        self.counts.rerun += 1
        self._queue_again(task)
        return []

    def _queue_again(self, task: Task) -> None:
        if not self.feeding.on_back(task):
            return
        task.group.backlog.appendleft(task)
        task.group.waiting += 1
        self._activate(task.group)

    def _back_off(self, batch: Batch, task: Task, now: float) -> None:
        spread = (int(task.token) & 0xFFFF) / 0xFFFF  # tokens are as good as random, and the core has no dice
        due = now + task.group.retry.pause(task.failures, spread)
        task.failures += 1
        self._leave(batch, task)
        task.to(TaskState.BACKOFF)
        self._sequence += 1
        heapq.heappush(self._backoff, (due, self._sequence, task))

    # ---- stopping

    def cancel(self, task: Task) -> tuple[bool, list[Effect]]:
        """As `Future.cancel`: True unless the task is known to run or is done. It will have no other outcome."""
        if task.state in (TaskState.DONE, TaskState.RUNNING):
            return False, []
        effects: list[Effect] = []
        if task.state is TaskState.SENT:
            effects.append(self._stop(task, math.inf))  # it may run, and the notice of that be on its way
            self._finish(self.batches[task.token], task)
        else:
            if task.state is TaskState.WAITING:
                task.group.waiting -= 1
            self.feeding.forget(task)
            task.to(TaskState.DONE)
        self.feeding.on_ended(task)
        self.counts.cancelled += 1
        return True, effects

    def kill(self, task: Task) -> tuple[bool, list[Effect]]:
        """Stop a task wherever it is. True when it is ended at once; else its node confirms with a report."""
        cancelled, effects = self.cancel(task)
        if not cancelled and task.state is TaskState.RUNNING:
            task.killing = True
            effects.append(self._stop(task, math.inf))
        return cancelled, effects

    def _stop(self, task: Task, tries: float) -> Stop:
        target = (task.token, task.index)
        self._stops[target] = tries
        if len(self._stops) > limits.STOPS_MAX:
            del self._stops[next(iter(self._stops))]
        return Stop([target])

    def disown(self, token: Token, count: int) -> Stop:
        """An earlier life of this session has sent this batch, and nobody needs it any more."""
        self._stops.update({(token, index): limits.STOP_TRIES for index in range(count)})
        return Stop([(token, index) for index in range(count)])

    # ---- time

    def next_deadline(self) -> float | None:
        """When `on_tick` has something to do; None when it has nothing."""
        times = [self._backoff[0][0]] if self._backoff else []
        if self._refused and any(window.rounds for window in self.windows.values()):
            times.append(self._probe_at)
        if self._stops:
            times.append(self._stop_at)
        if self.batches:
            oldest = next(iter(self.batches.values())).sent_at
            times.append(max(oldest, self._checked_at) + limits.WATCHDOG_S)
        return min(times) if times else None

    def on_tick(self, now: float) -> list[Effect]:
        """Wake what has waited long enough, repeat orders, and ask after batches that nobody has spoken of for long."""
        while self._backoff and self._backoff[0][0] <= now:
            task = heapq.heappop(self._backoff)[2]
            if task.state is TaskState.BACKOFF:
                self._queue_again(task)
        return self._repeat_stops(now) + self._check_lanes(now)

    def _repeat_stops(self, now: float) -> list[Effect]:
        """A node may have been cut off when the order was given, or have joined since, or have lost what it knew."""
        if not self._stops or now < self._stop_at:
            return []
        self._stop_at = now + limits.STOP_RETRY_S
        targets = list(self._stops)
        self._stops = {target: tries - 1 for target, tries in self._stops.items() if tries > 1}
        return [Stop(targets)]

    def _check_lanes(self, now: float) -> list[Effect]:
        if now < self._checked_at + limits.WATCHDOG_S:
            return []
        self._checked_at = now
        lanes: dict[LaneId, None] = {}
        for batch in self.batches.values():
            if now - batch.sent_at < limits.WATCHDOG_S:
                break  # they stand in order of publication
            if batch.sequence:
                lanes[batch.group.lane_id] = None
        return [CheckLane(lane) for lane in lanes]

    def on_lane_checked(self, lane: LaneId, asked_at: float, oldest: int) -> list[Effect]:
        """The engine says where in its stream this session's oldest work of the lane is, 0 for none.

        A batch that it had and has no more is done, and its report is on its way. Missing twice, WATCHDOG_S apart, and
        still without a report, it is lost.
        """
        lost: list[Batch] = []
        for batch in self.batches.values():
            if batch.group.lane_id != lane or not batch.sequence or batch.sent_at >= asked_at:
                continue
            batch.missed = batch.missed + 1 if not oldest or batch.sequence < oldest else 0
            if batch.missed >= 2:
                lost.append(batch)
        effects: list[Effect] = []
        for batch in lost:
            for task in [t for t in reversed(batch.tasks) if t is not None]:
                effects += [self._stop(task, limits.STOP_TRIES), *self._again(batch, task)]
        return effects

    def unfinished(self) -> list[Task]:
        """Every task without an outcome, wherever it is."""
        found = [task for batch in self.batches.values() for task in batch.tasks if task is not None]
        groups = [group for window in self.windows.values() for group in window.rounds]
        found += [task for group in groups for task in group.backlog if task.state is TaskState.WAITING]
        found += [*self.feeding.blocked, *self.feeding.starved]
        return found + [task for _, _, task in self._backoff if task.state is TaskState.BACKOFF]

    @property
    def open(self) -> int:
        """Tasks without an outcome."""
        counts = self.counts
        return counts.submitted - counts.done - counts.failed - counts.cancelled
