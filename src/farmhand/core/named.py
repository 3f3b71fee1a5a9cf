"""A named session: one whose tasks and outcomes the engine stores, so that it goes on while nobody waits for it.

What it decides: which stored blocks are in memory, which of their tasks are still to be run, what the records of outcomes
say, and from where a next life begins to read. How tasks are sent, tried again and stopped is `core.session`'s.
What it must never do: give a task two outcomes, forget a task that was stored, or run one again whose report is stored.

A life begins in this order: the records stored so far (`on_settled`), what is under way (`claim_work`, `claim_report`),
the blocks (`on_block`), `start`, then the reports. A block that is far from being needed is parked: its body is read again
when its turn comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from farmhand.core import session
from farmhand.core.copies import Copies
from farmhand.core.tasks import Group, Task, TaskState
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId, Token
from farmhand.model.messages import Report, Work
from farmhand.model.named import Block, Place, Settled, Tried, places_of, runs_of
from farmhand.model.outcome import STOPPED, BlobRef, Kind, Mark


class Cargo(msgspec.Struct, gc=False):
    """What the session keeps with a task. The core never looks into `entry` and `blob`."""

    place: Place
    entry: Any
    blob: BlobRef | None = None


class Store(msgspec.Struct):
    """Store this record, and say `on_settled`. Its body are the entries of the report's body at `positions`, in that order."""

    settled: Settled
    positions: list[int]
    ended: list[session.Ended] = []  # of the tasks among them that did not succeed


class Fetch(msgspec.Struct, frozen=True):
    """Read this block again, and say `on_fetched` or `on_not_fetched`."""

    block: int


Effect = session.Effect | Store | Fetch


class _Block:
    """A block that is not over, or that another stands before that is not. `done`: a bit for each index."""

    __slots__ = ("bytes", "cancelled", "count", "done", "failed", "lane", "loaded", "settled")

    def __init__(self) -> None:
        self.count = 0  # 0 until it is read
        self.lane = LaneId("")
        self.done = 0  # by what was decided
        self.settled = 0  # by records that are stored: how many
        self.failed = 0  # among those
        self.cancelled = 0
        self.bytes = 0  # its own, and of its records and large values
        self.loaded = False  # its tasks are in memory

    @property
    def decided(self) -> bool:
        """Nothing of it is to be run any more."""
        return self.done == (1 << self.count) - 1

    @property
    def over(self) -> bool:
        return 0 < self.count <= self.settled


class _Backlog:
    """What a lane has of a session."""

    __slots__ = ("bytes", "fetching", "parked", "tasks")

    def __init__(self) -> None:
        self.tasks = 0  # in memory, without an outcome
        self.bytes = 0
        self.parked: deque[int] = deque()
        self.fetching = False

    def has_room(self) -> bool:
        return self.tasks < limits.BLOCK_AHEAD_TASKS and self.bytes < limits.BLOCK_AHEAD_BYTES


class _Claim:
    __slots__ = ("group", "sequence", "tasks")

    def __init__(self, count: int, sequence: int) -> None:
        self.tasks: list[Task | None] = [None] * count
        self.sequence = sequence
        self.group: Group | None = None


class NamedSession:
    """See the head of this file. `last`: the newest record that is stored, if there is one."""

    def __init__(self, secret: bytes, last: Settled | None = None) -> None:
        self.core = session.Session(secret)
        self._below = last or Settled(messages.PROTOCOL, ())  # only its totals
        self.read_to = self._below.low - 1  # the newest block that was read
        self.copies = Copies(self._below.low)
        self.bytes = self._below.bytes_below
        counts = self.core.counts
        counts.done, counts.failed, counts.cancelled = self._below.done, self._below.failed, self._below.cancelled
        counts.submitted = counts.done + counts.failed + counts.cancelled
        counts.seconds, counts.cpu = self._below.seconds, self._below.cpu
        self.submitted = counts.submitted
        self._groups: dict[tuple[Any, ...], Group] = {}
        self._blocks: dict[int, _Block] = {}
        self._order: deque[int] = deque()  # sequences of those that were read
        self._live: dict[Place, Task] = {}
        self._lanes: dict[LaneId, _Backlog] = {}
        self._fetching: dict[int, LaneId] = {}
        self._claims: dict[Place, tuple[_Claim, int]] = {}
        self._claimed: dict[Token, _Claim] = {}
        self._tried: dict[Place, Tried] = {}  # in earlier lives
        self._marked: dict[
            Place, dict[int, Kind]
        ] = {}  # by reports that nobody has read; by the sequence of their work
        self._failed: list[Tried] = []  # in attempts whose reports are there, and which no record speaks of
        self._opened = False

    @property
    def low(self) -> int:
        """Every block below this sequence is over."""
        return self._order[0] if self._order else self.read_to + 1

    @property
    def open(self) -> int:
        """Tasks without an outcome."""
        counts = self.core.counts
        return self.submitted - counts.done - counts.failed - counts.cancelled

    @property
    def running(self) -> int:
        """Tasks that were handed out."""
        return sum(batch.left for batch in self.core.batches.values())

    # ---- beginning

    def claim_work(self, work: Work, sequence: int) -> None:
        """A batch whose message is at `sequence`: it waits, or runs."""
        claim = self._claimed[Token(work.token)] = _Claim(work.count, sequence)
        for index, place in enumerate(places_of(work.origin)):
            if not self._is_counted(place, sequence):
                self._claims[place] = claim, index

    def claim_report(self, report: Report) -> None:
        """A report that nobody has read. Of several attempts at a task the last one counts, be it there as work or as a report."""
        token, places = Token(report.token), list(places_of(report.origin))
        marks = {mark.index: mark.kind for mark in report.marks}
        claim = self._claimed.setdefault(token, _Claim(len(places), report.sequence))
        for index in range(report.first, min(report.first + report.count, len(places))):
            known = self._claims.get(places[index])
            if self._is_counted(places[index], claim.sequence):
                continue
            if index in marks:
                self._marked.setdefault(places[index], {}).setdefault(claim.sequence, marks[index])
            if known is None or known[0].sequence <= claim.sequence:
                self._claims[places[index]] = claim, index

    def _is_counted(self, place: Place, sequence: int) -> bool:
        """Whether the attempt of the work at `sequence` is one that this task is known to have failed in."""
        tried = self._tried.get(place)
        return tried is not None and sequence <= tried.sequence

    def start(self, now: float) -> list[Effect]:
        """Everything that was there at the beginning has been read."""
        for token, claim in self._claimed.items():
            if claim.group is not None:
                self.core.adopt(token, claim.group, claim.tasks, claim.sequence, now)
        self._claims.clear()
        self._claimed.clear()
        self._marked.clear()
        self._opened = True
        failed = tuple(self._failed)
        stored = [Store(Settled(messages.PROTOCOL, (), tried=failed), [])] if failed else []
        return [*stored, *self.plan(now)]

    # ---- blocks

    def on_block(self, sequence: int, block: Block, entries: Sequence[Any], size: int, name: str = "") -> None:
        """A stored block, in the order of the stream. `size`: its bytes and those of its large arguments.

        `name`: the id under which it was stored; nothing must be missing in `copies` for it.
        """
        if sequence <= self.read_to:
            return
        self.read_to = sequence
        if self.copies.is_copy(name, sequence):
            return
        self.submitted += block.count
        self.bytes += size
        found = self._blocks.setdefault(sequence, _Block())
        found.count, found.lane = block.count, block.lane.id
        found.bytes += size
        self._order.append(sequence)
        if found.decided:
            self._advance()
            return
        self.core.window(block.lane)  # `on_slots` may come before anything is sent there
        lane = self._lanes.setdefault(found.lane, _Backlog())
        if self._is_claimed(sequence, block.count) or (not lane.parked and lane.has_room()):
            self._load(sequence, block, entries)
        else:
            lane.parked.append(sequence)

    def _is_claimed(self, sequence: int, count: int) -> bool:
        return bool(self._claims) and any((sequence, index) in self._claims for index in range(count))

    def on_fetched(self, sequence: int, block: Block, entries: Sequence[Any]) -> None:
        """A parked block has come."""
        self._lanes[self._fetching.pop(sequence)].fetching = False
        if sequence in self._blocks:  # else all of it was withdrawn meanwhile
            self._load(sequence, block, entries)

    def on_not_fetched(self, sequence: int) -> None:
        """The engine did not answer: `plan` asks again."""
        lane = self._lanes[self._fetching.pop(sequence)]
        lane.fetching = False
        lane.parked.appendleft(sequence)

    def _load(self, sequence: int, block: Block, entries: Sequence[Any]) -> None:
        """Make the tasks of a block that have no outcome."""
        found, group = self._blocks[sequence], self._group(block)
        found.loaded = True
        blobs = {ref.index: ref for ref in block.blobs}
        lane = self._lanes[found.lane]
        waiting: list[Task] = []
        for index in range(block.count):
            if found.done >> index & 1:
                continue
            entry = entries[index]
            task = Task(group, len(entry), Cargo((sequence, index), entry, blobs.get(index)))
            self._live[sequence, index] = task
            lane.tasks += 1
            lane.bytes += task.size
            claim, at = self._claims.get((sequence, index), (None, 0))
            self._recall(task, claim.sequence if claim is not None else 0)
            if claim is not None and claim.group in (None, group):
                claim.group = group
                claim.tasks[at] = task
            else:
                waiting.append(task)
        self.core.on_submitted(group, waiting)

    def _recall(self, task: Task, last: int) -> None:
        """Count what went wrong in attempts before that of the work at sequence `last`."""
        place: Place = task.cargo.place
        if (tried := self._tried.pop(place, None)) is not None:
            task.attempts, task.failures = tried.attempts, tried.failures
            task.deaths, task.losses = tried.deaths, tried.losses
        for sequence, kind in sorted(self._marked.get(place, {}).items()):
            if sequence >= last:
                continue  # it will be read
            before = task.setbacks
            task.attempts += 1
            task.failures += task.group.retry.allows(kind, -1)
            task.deaths += kind is Kind.CRASHED
            task.losses += kind is Kind.LOST
            if task.setbacks != before:  # it was not only handed back
                self._failed.append(_tried(task, sequence))
        task.careful = task.deaths + task.losses > 0

    def _group(self, block: Block) -> Group:
        key = (block.lane, block.profile, block.retry)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= limits.GROUPS_MAX:
                self._groups = {k: g for k, g in self._groups.items() if g.active}
            group = self._groups[key] = Group(block.lane, block.profile, block.retry)
        return group

    def plan(self, now: float) -> list[Effect]:
        """What to send and to read now. Call it after any other event."""
        if not self._opened:
            return []
        effects: list[Effect] = [*self.core.plan(now)]
        for name, lane in self._lanes.items():
            if lane.fetching or lane.tasks >= limits.BLOCK_AHEAD_TASKS // 2 or not lane.has_room():
                continue
            while lane.parked and (lane.parked[0] not in self._blocks or self._blocks[lane.parked[0]].decided):
                lane.parked.popleft()
            if lane.parked:
                lane.fetching = True
                self._fetching[lane.parked[0]] = name
                effects.append(Fetch(lane.parked.popleft()))
        return effects

    # ---- outcomes

    def on_report(self, report: Report, now: float) -> list[Effect]:
        """As `Session.on_report`. What ended is in a record to be stored; until then the report must stay."""
        batch = self.core.batches.get(Token(report.token))
        marked = batch.tasks[report.first : report.first + report.count] if batch is not None and report.marks else ()
        before = [(task, task.setbacks) for task in marked if task is not None]
        decided = self.core.on_report(report, now)
        failed = (task for task, setbacks in before if task.state is not TaskState.DONE and task.setbacks != setbacks)
        return self._settle(decided, report, tuple(_tried(task, report.sequence) for task in failed))

    def on_refused(self, token: Token, now: float, *, full: bool) -> list[Effect]:
        """As `Session.on_refused`."""
        return self._settle(self.core.on_refused(token, now, full=full))

    def on_lane_checked(self, lane: LaneId, asked_at: float, oldest: int) -> list[Effect]:
        """As `Session.on_lane_checked`."""
        return self._settle(self.core.on_lane_checked(lane, asked_at, oldest))

    def on_tick(self, now: float) -> list[Effect]:
        """As `Session.on_tick`."""
        return self._settle(self.core.on_tick(now))

    def _settle(
        self, decided: Iterable[session.Effect], report: Report | None = None, tried: tuple[Tried, ...] = ()
    ) -> list[Effect]:
        """Put the outcomes among the effects into a record, and what is counted against others."""
        effects: list[Effect] = []
        places: list[Place] = []
        positions: list[int] = []
        marks: list[Mark] = []
        ended: list[session.Ended] = []
        blobs: list[BlobRef] = []
        refs = {ref.index: ref for ref in report.blobs} if report is not None else {}
        for effect in decided:
            if isinstance(effect, session.Delivered):
                for task, position in effect.values:
                    if (ref := refs.get(task.index)) is not None:
                        blobs.append(BlobRef(len(places), ref.id, ref.size))
                    places.append(self._close(task))
                    positions.append(position)
            elif isinstance(effect, session.Ended):
                marks.append(msgspec.structs.replace(effect.mark, index=len(places)))
                ended.append(effect)
                places.append(self._close(effect.task))
                if effect.position >= 0:
                    positions.append(effect.position)
            else:
                effects.append(effect)
        if places or tried:
            node, slot = (report.node, report.slot) if report is not None else ("", -1)
            attempts = tuple(effect.task.attempts for effect in ended)
            record = Settled(
                messages.PROTOCOL, runs_of(places), tuple(marks), node, slot, tuple(blobs), attempts, tried=tried
            )
            effects.append(Store(record, positions, ended))
        return effects

    def stop(self, places: Iterable[Place], *, kill: bool) -> tuple[list[bool], list[Effect]]:
        """Withdraw tasks, and with `kill` stop those that run. Says which will have no other outcome."""
        ended: list[bool] = []
        over: list[Place] = []
        effects: list[Effect] = []
        for place in places:
            task, block = self._live.get(place), self._blocks.get(place[0])
            gone = False
            if task is not None:
                gone, orders = self.core.kill(task) if kill else self.core.cancel(task)
                effects += orders
                if gone:
                    self._close(task)
            elif block is not None and 0 <= place[1] < block.count and not block.done >> place[1] & 1:
                gone = True  # it is parked
                block.done |= 1 << place[1]
                self.core.counts.submitted += 1
                self.core.counts.cancelled += 1
            ended.append(gone)
            if gone:
                over.append(place)
        if over:
            marks = tuple(Mark(index, Kind.CANCELLED) for index in range(len(over)))
            effects.append(Store(Settled(messages.PROTOCOL, runs_of(over), marks), []))
        return ended, effects

    def _close(self, task: Task) -> Place:
        """The task has its outcome."""
        place: Place = task.cargo.place
        del self._live[place]
        lane = self._lanes[task.group.lane_id]
        lane.tasks -= 1
        lane.bytes -= task.size
        self._blocks[place[0]].done |= 1 << place[1]
        return place

    # ---- records

    def stamp(self, settled: Settled) -> Settled:
        """The record with the totals as they are now; call it just before storing it, also when that is tried again."""
        below, counts = self._below, self.core.counts
        return msgspec.structs.replace(
            settled, low=self.low, done=below.done, failed=below.failed, cancelled=below.cancelled,
            bytes_below=below.bytes_below, seconds=counts.seconds, cpu=counts.cpu,
        )  # fmt: skip

    def on_settled(self, settled: Settled, size: int) -> None:
        """This record is stored. `size`: its bytes. At the beginning of a life: each one from `low` on, in order."""
        marks = {mark.index: mark.kind for mark in settled.marks}
        size += sum(ref.size for ref in settled.blobs)
        self.bytes += size
        counts, fresh = self.core.counts, not self._opened
        for tried in settled.tried if fresh else ():
            if not self._is_counted(
                place := (tried.block, tried.index), tried.sequence
            ):  # records may overtake each other
                self._tried[place] = tried
        for at, (sequence, index) in enumerate(places_of(settled.runs)):
            if sequence < self._below.low:
                continue
            block = self._blocks.setdefault(sequence, _Block())
            block.bytes, size = block.bytes + size, 0
            if fresh and block.done >> index & 1:
                continue
            block.done |= 1 << index
            block.settled += 1
            kind = marks.get(at)
            block.failed += kind not in (None, *STOPPED)
            block.cancelled += kind in STOPPED
            if fresh:
                counts.submitted += 1
                counts.done += kind is None
                counts.failed += kind not in (None, *STOPPED)
                counts.cancelled += kind in STOPPED
        self._advance()

    def _advance(self) -> None:
        """What is over, and has nothing before it that is not, is only counted from here on."""
        below = self._below
        while self._order and self._blocks[self._order[0]].over:
            block = self._blocks.pop(self._order.popleft())
            below.done += block.count - block.failed - block.cancelled
            below.failed += block.failed
            below.cancelled += block.cancelled
            below.bytes_below += block.bytes
        below.low = self.low


def _tried(task: Task, sequence: int) -> Tried:
    block, index = task.cargo.place
    return Tried(block, index, sequence, task.attempts, task.failures, task.deaths, task.losses)
