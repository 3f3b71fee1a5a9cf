"""Tasks that wait for the values of others: who may start when a value is there, and who falls with a task that failed.

Counters only: a task knows how many of its inputs have no value yet, and an input knows who waits for it. A task is made
after its inputs, so no circle can exist.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from farmhand.core.tasks import Group, Links, Task, TaskState
from farmhand.model import limits
from farmhand.model.ids import LaneId


class Unfed(msgspec.Struct, frozen=True, gc=False):
    """This task ended without a run: `cause`, one of its inputs or of theirs, has ended without a value."""

    task: Task
    cause: Task


class Feeding:
    """The blocked tasks of a session, and those that ended without a run because an input of theirs has failed."""

    def __init__(self) -> None:
        self.blocked: dict[Task, None] = {}
        self.by_lane: Counter[LaneId] = Counter()  # how many of them
        self.starved: list[Task] = []  # DONE, and nobody has been told yet; `unfed` of their links is why

    def _block(self, task: Task) -> None:
        task.to(TaskState.BLOCKED)
        self.blocked[task] = None
        self.by_lane[task.group.lane_id] += 1

    def forget(self, task: Task) -> None:
        """A task is not blocked any more, if it was."""
        if task in self.blocked:
            del self.blocked[task]
            self.by_lane[task.group.lane_id] -= 1

    def link(self, task: Task) -> None:
        """A task that was sent by an earlier life of its session: it needs its inputs if it comes back."""
        links = task.links
        if links is None:
            return
        inputs, links.inputs = links.inputs, ()
        for source in inputs:
            if source.state is not TaskState.DONE:
                if source.links is None:
                    source.links = Links()
                source.links.dependents.append(task)
                links.waits += 1
            elif not source.succeeded:
                links.unfed = (source.links.unfed if source.links else None) or source

    def admit(self, task: Task) -> bool:
        """A new task: whether it may go to the backlog."""
        self.link(task)
        links = task.links
        if links is not None and links.unfed is not None:
            self._end(task)
            self.on_no_value(task)  # others may have waited for it before it was here
        elif links is not None and links.waits:
            self._block(task)
        return task.state is TaskState.WAITING

    def on_value(self, source: Task) -> list[Task]:
        """A task has succeeded: those that waited for nothing else go to the backlog."""
        assert source.links is not None
        freed: list[Task] = []
        for task in source.links.dependents:
            links = task.links
            assert links is not None
            links.waits -= 1
            if not links.waits and task.state is TaskState.BLOCKED:
                self.forget(task)
                task.to(TaskState.WAITING)
                freed.append(task)
        source.links.dependents.clear()
        return freed

    def on_no_value(self, source: Task) -> None:
        """A task has ended without a value, and so does what waits for it, near and far. What was sent ends when it comes back."""
        root = (source.links.unfed if source.links else None) or source
        ended = [source]
        for one in ended:  # grows meanwhile: a chain may be longer than a stack is deep
            if one.links is None:
                continue
            for task in one.links.dependents:
                links = task.links
                assert links is not None
                if links.unfed is None and task.state is not TaskState.DONE:
                    links.unfed = root
                    if task.state in (TaskState.BLOCKED, TaskState.BACKOFF):
                        self.forget(task)
                        self._end(task)
                        ended.append(task)
            one.links.dependents.clear()

    def on_back(self, task: Task) -> bool:
        """A task is to run again: whether it may go to the backlog."""
        links = task.links
        if links is None or not (links.waits or links.unfed):
            task.to(TaskState.WAITING)
            return True
        if links.unfed is None:
            self._block(task)
            return False
        self._end(task)
        self.on_no_value(task)
        return False

    def _end(self, task: Task) -> None:
        task.to(TaskState.DONE)
        self.starved.append(task)

    def on_ended(self, task: Task) -> None:
        """A task has ended otherwise than with a value. An input of its own may have failed too, but that is not how it ended."""
        if task.links is not None:
            task.links.unfed = None
            self.on_no_value(task)

    def tell(self) -> list[Unfed]:
        """Who has ended because of an input since the last time."""
        starved, self.starved = self.starved, []
        return [Unfed(task, task.links.unfed) for task in starved if task.links is not None and task.links.unfed]

    def follow(self, tasks: list[Task], group: Group) -> None:
        """Add to a message what may run behind the tasks in it: blocked ones whose missing inputs are all ahead of them.

        Their order is that in which the last input of each was added, so a slot that runs one after another finds the values.
        """
        if not any(task.links is not None and task.links.dependents for task in tasks) or tasks[0].careful:
            return
        most, size = group.most(), sum(task.size for task in tasks)
        ahead: dict[Task, int] = {}
        for source in tasks:  # grows meanwhile
            if source.links is None:
                continue
            for task in source.links.dependents:
                if len(tasks) >= most:
                    return
                ahead[task] = ahead.get(task, 0) + 1
                links = task.links
                if (
                    task.state is TaskState.BLOCKED and task.group is group and not task.careful
                    and links is not None and links.waits == ahead[task] and size + task.size <= limits.BATCH_BYTES_MAX
                ):  # fmt: skip
                    self.forget(task)
                    size += task.size
                    tasks.append(task)
