"""What tasks of a named session need of one another: which input is in memory, which is still to come, and where values are recorded.

`core.feeding` counts inputs that are tasks in memory. Here the others get something that stands for them: of a block that is
parked, or of one that is over and of which only a record in the engine knows. Values are not kept here: a record has each.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from farmhand.core.session import Session
from farmhand.core.tasks import Group, Links, Task, TaskState
from farmhand.model.messages import Profile, Run
from farmhand.model.named import Block, Place
from farmhand.model.needs import Lane
from farmhand.model.outcome import BlobRef, Kind
from farmhand.model.retry import Retry


class Use(msgspec.Struct, frozen=True, gc=False):
    """An input: the value of the task at `place`. No record before the sequence `after` has it."""

    place: Place
    name: str
    after: int


class Given(msgspec.Struct, frozen=True):
    """An input that came with the block. The core never looks into it."""

    entry: Any
    blob: BlobRef | None = None


class Cargo(msgspec.Struct, gc=False):
    """What the session keeps with a task. The core never looks into `entry` and `blob`."""

    place: Place
    entry: Any = None
    blob: BlobRef | None = None
    inputs: tuple[Use | Given, ...] = ()
    wanted: bool = False  # another task in memory waits for its value
    kind: Kind = Kind.SUCCEEDED  # how it ended, when it did not succeed


class Seek(msgspec.Struct, frozen=True):
    """Look for the record of this task's outcome from the sequence `after` on, and say `on_found`."""

    place: Place
    after: int


class Fate(enum.Enum):
    """What is known of a task that is not in memory."""

    COMING = 0  # it has no outcome: its block is parked
    DECIDED = 1  # it succeeded, and the record of that is on its way
    STORED = 2  # it succeeded, and that is stored
    FAILED = 3
    WITHDRAWN = 4
    UNSEEN = 5  # its block is over, and forgotten
    NOBODY = 6  # there is no such task


_ENDS = {Fate.FAILED: Kind.REFUSED, Fate.WITHDRAWN: Kind.CANCELLED, Fate.NOBODY: Kind.LOST}


class Supply:
    """See the head of this file."""

    def __init__(self, core: Session) -> None:
        self._core = core
        self._stubs: dict[
            Place, Task
        ] = {}  # inputs that some task in memory waits for, and that are not there themselves
        self._seeks: list[Seek] = []
        self._needs: dict[int, set[int]] = {}  # by open block: the blocks whose values its tasks have as inputs
        self._users: Counter[int] = Counter()  # how many blocks that makes, by the block that is needed
        self._records: dict[int, list[tuple[int, int, int]]] = {}  # by block: first index, tasks, the record's sequence
        self._beginning = True  # of a life: it is not known yet which blocks are needed

    # ---- where values are recorded

    def expect(self, sequence: int, block: Block) -> None:
        """A block has been read: from now on it is noted where the values are that its tasks need."""
        if block.feeds:
            needs = self._needs[sequence] = {sequence, *(given.block for given in block.inputs)}
            self._users.update(needs)

    def release(self, sequence: int) -> None:
        """A block is over."""
        for block in self._needs.pop(sequence, ()):
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]
                self._records.pop(block, None)

    def start(self) -> None:
        """Every block has been read: what no task needs is forgotten."""
        self._beginning = False
        self._records = {block: found for block, found in self._records.items() if block in self._users}

    def note(self, runs: Iterable[Run], record: int) -> None:
        """The record at this sequence has the outcomes of these."""
        for block, first, count in runs:
            if self._beginning or block in self._users:
                self._records.setdefault(block, []).append((first, count, record))

    def record_of(self, place: Place) -> int:
        """The sequence of the record with a task's outcome; 0 while it is not known."""
        for first, count, record in self._records.get(place[0], ()):
            if first <= place[1] < first + count:
                return record
        return 0

    # ---- inputs

    def inputs_of(self, sequence: int, block: Block, entries: Sequence[Any]) -> dict[int, tuple[Use | Given, ...]]:
        """What the calls of a block have as inputs, by index."""
        blobs = {ref.index: ref for ref in block.blobs}
        uses = {given.place: Use((given.block, given.index), given.name, given.after) for given in block.inputs}

        def at(place: int) -> Use | Given:
            if place < block.count:
                return Use((sequence, place), block.profile.name, sequence)
            return uses.get(place) or Given(entries[place], blobs.get(place))

        return {feed.index: tuple(map(at, feed.places)) for feed in block.feeds}

    def link(self, task: Task, live: dict[Place, Task], fate: Callable[[Place], Fate]) -> None:
        """Tie a new task to its inputs, and to the tasks that have waited for it."""
        uses = [given for given in task.cargo.inputs if isinstance(given, Use)]
        sources = [source for use in uses if (source := self._source(use, live, fate)) is not None]
        if sources:
            task.links = Links(sources)
        stub = self._stubs.pop(task.cargo.place, None)
        if stub is not None and stub.links is not None:
            task.cargo.wanted = True
            task.links = task.links or Links()
            task.links.dependents = stub.links.dependents

    def _source(self, use: Use, live: dict[Place, Task], fate: Callable[[Place], Fate]) -> Task | None:
        """What stands for an input; None when its value is there."""
        place = use.place
        if (task := live.get(place)) is not None:
            task.cargo.wanted = True
            return task
        known = self._stubs.get(place)
        if known is not None:
            return known
        found, record = fate(place), self.record_of(place)
        if found is Fate.DECIDED or (found is Fate.STORED and record):
            return None
        stub = Task(Group(Lane(), Profile("", name=use.name), Retry()), 0, Cargo(place))
        if found in _ENDS:
            self._end(stub, _ENDS[found])
            return stub
        self._stubs[place] = stub
        if found is not Fate.COMING:
            self._seeks.append(Seek(place, record or use.after))
        return stub

    def seeks(self) -> list[Seek]:
        """What to look for now."""
        seeks, self._seeks = self._seeks, []
        return seeks

    def on_found(self, place: Place, record: int, kind: Kind) -> None:
        """A task's outcome is in the record of that sequence, 0 when there is none."""
        stub = self._stubs.pop(place, None)
        if stub is not None:
            self.note(((*place, 1),), record)
            self._end(stub, kind if record else Kind.LOST)

    def on_withdrawn(self, place: Place) -> None:
        """A task of a parked block will never be there."""
        stub = self._stubs.pop(place, None)
        if stub is not None:
            self._end(stub, Kind.CANCELLED)

    def _end(self, stub: Task, kind: Kind) -> None:
        stub.cargo.kind = kind
        stub.succeeded = kind is Kind.SUCCEEDED
        stub.to(TaskState.DONE)
        self._core.on_input(stub)
