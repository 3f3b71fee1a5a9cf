"""What a client knows of a named session: its blocks in order, and in which records their outcomes stand."""

from __future__ import annotations

import bisect
from typing import NamedTuple

from farmhand.core.tasks import Group
from farmhand.model.messages import Profile, Run
from farmhand.model.named import Place, heading_of
from farmhand.model.needs import Lane
from farmhand.model.retry import Retry


class Entry(NamedTuple):
    """One block. `first`: the number of its first task in the session, from 0."""

    sequence: int
    first: int
    tasks: int
    name: str


class Ledger:
    """Filled by the loop's thread, read by any."""

    def __init__(self) -> None:
        self.blocks: list[Entry] = []
        self.count = 0  # tasks
        self._firsts: list[int] = []
        self._at: dict[int, int] = {}  # the position of a block, by its sequence
        self._ids: set[str] = set()  # under which they were stored
        self._named: dict[str, list[int]] = {}
        self.last_record = 0  # its sequence
        self._records: dict[int, list[tuple[int, int, int]]] = {}  # by block: first index, tasks, the record's sequence

    def on_block(self, sequence: int, said: str, msg_id: str = "") -> None:
        """A stored block; `said` is its `HEADER`. One whose id is known is a second copy, which counts for nobody."""
        if sequence in self._at or (msg_id and msg_id in self._ids):
            return
        self._ids.add(msg_id)
        tasks, name = heading_of(said)
        entry = Entry(sequence, self.count, tasks, name)
        self._firsts.append(self.count)
        self._at[sequence] = len(self.blocks)
        self._named.setdefault(entry.name, []).append(len(self.blocks))
        self.blocks.append(entry)
        self.count += entry.tasks

    @property
    def newest(self) -> int:
        """The sequence of the last block that is known, 0 for none."""
        return self.blocks[-1].sequence if self.blocks else 0

    def on_record(self, sequence: int, runs: tuple[Run, ...]) -> None:
        """A stored record has the outcomes of these."""
        self.last_record = max(self.last_record, sequence)
        for block, first, count in runs:
            self._records.setdefault(block, []).append((first, count, sequence))

    def record_of(self, place: Place) -> int:
        """The sequence of the record with a task's outcome, 0 when there is none yet."""
        block, index = place
        for first, count, sequence in self._records.get(block, ()):
            if first <= index < first + count:
                return sequence
        return 0

    def recorded_from(self, place: Place) -> int:
        """No record before this sequence has the task's outcome."""
        return self.record_of(place) or max(self.last_record, place[0]) + 1

    def place(self, number: int) -> Place:
        """The place of the session's task `number`, from 0. Raises `IndexError`."""
        if not 0 <= number < self.count:
            raise IndexError(f"task {number} of a session of {self.count}")
        entry = self.blocks[bisect.bisect_right(self._firsts, number) - 1]
        return entry.sequence, number - entry.first

    def name(self, place: Place) -> str:
        """The name of a task."""
        at = self._at.get(place[0])
        return self.blocks[at].name if at is not None else ""

    def group(self, place: Place) -> Group:
        """What stands for the group of a task that somebody else has submitted."""
        return Group(Lane(), Profile("", name=self.name(place)), Retry())

    def named(self, name: str) -> list[Place]:
        """The tasks of that name, in order."""
        entries = [self.blocks[at] for at in self._named.get(name, ())]
        return [(entry.sequence, index) for entry in entries for index in range(entry.tasks)]
