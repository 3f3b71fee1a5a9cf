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
from farmhand.core.feeding import Unfed
from farmhand.core.settling import Outcomes, Store
from farmhand.core.supply import Cargo, Fate, Seek, Supply
from farmhand.core.tasks import Counts, Group, Task
from farmhand.core.tries import Tries, tried_in
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId, Token
from farmhand.model.messages import Report, Work
from farmhand.model.named import Block, Place, Settled, Tried, places_of, runs_of
from farmhand.model.outcome import STOPPED, Kind, Mark


class Fetch(msgspec.Struct, frozen=True):
    """Read this block again, and say `on_fetched` or `on_not_fetched`."""

    block: int


Effect = session.Effect | Store | Fetch | Seek


class _Block:
    """A block that is not over, or that another stands before that is not. `done` and what follows have a bit for each index."""

    __slots__ = ("bytes", "cancelled", "count", "done", "failed", "lane", "loaded", "settled", "withdrawn")

    def __init__(self) -> None:
        self.count = 0  # 0 until it is read
        self.lane = LaneId("")
        self.done = 0  # by what was decided
        self.settled = 0  # by records that are stored
        self.failed = 0  # among those that are done
        self.cancelled = 0
        self.withdrawn = 0  # among the cancelled: before they ran
        self.bytes = 0  # its own, and of its records and large values
        self.loaded = False  # its tasks are in memory

    @property
    def decided(self) -> bool:
        """Nothing of it is to be run any more."""
        return self.done == (1 << self.count) - 1

    @property
    def over(self) -> bool:
        return 0 < self.count <= self.settled.bit_count()

    def end(self, index: int, kind: Kind) -> None:
        """A task has its outcome."""
        self.done |= 1 << index
        self.cancelled |= (kind in STOPPED) << index
        self.withdrawn |= (kind is Kind.CANCELLED) << index
        self.failed |= (kind not in (Kind.SUCCEEDED, *STOPPED)) << index

    def fate(self, index: int) -> Fate:
        """How a task stands that is not in memory."""
        if index >= self.count:
            return Fate.NOBODY
        if not self.done >> index & 1:
            return Fate.COMING
        if self.withdrawn >> index & 1:
            return Fate.WITHDRAWN
        if (self.failed | self.cancelled) >> index & 1:
            return Fate.FAILED
        return Fate.STORED if self.settled >> index & 1 else Fate.DECIDED


class _Backlog:
    """What a lane has of a session."""

    __slots__ = ("bytes", "fetching", "parked", "tasks")

    def __init__(self) -> None:
        self.tasks = 0  # in memory, without an outcome
        self.bytes = 0
        self.parked: deque[int] = deque()
        self.fetching = False

    def has_room(self, blocked: int, ahead: int) -> bool:
        """Whether one more block may come into memory. What waits for inputs must not keep out what can run."""
        if self.bytes >= limits.BLOCK_AHEAD_BYTES or self.tasks >= limits.BLOCK_BLOCKED_TASKS:
            return False
        return self.tasks - blocked < ahead


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
        self.counts = counts = Counts()  # those of the core count children too
        counts.done, counts.failed, counts.cancelled = self._below.done, self._below.failed, self._below.cancelled
        counts.submitted = counts.done + counts.failed + counts.cancelled
        self.core.counts.seconds, self.core.counts.cpu = self._below.seconds, self._below.cpu
        self.submitted = counts.submitted
        self._groups: dict[tuple[Any, ...], Group] = {}
        self._blocks: dict[int, _Block] = {}
        self._order: deque[int] = deque()  # sequences of those that were read
        self._live: dict[Place, Task] = {}
        self._lanes: dict[LaneId, _Backlog] = {}
        self._fetching: dict[int, LaneId] = {}
        self._claims: dict[Place, tuple[_Claim, int]] = {}
        self._claimed: dict[Token, _Claim] = {}
        self._tries = Tries()
        self._supply = Supply(self.core)
        self._unfed: dict[
            Place, list[Unfed]
        ] = {}  # tasks that have ended with an input, until that is stored of the input
        self.freed: list[Unfed] = []  # since then
        self._disowned: list[tuple[Token, int]] = []
        self._opened = False

    @property
    def low(self) -> int:
        """Every block below this sequence is over."""
        return self._order[0] if self._order else self.read_to + 1

    @property
    def open(self) -> int:
        """Tasks without an outcome."""
        counts = self.counts
        return self.submitted - counts.done - counts.failed - counts.cancelled

    @property
    def running(self) -> int:
        """Tasks that were handed out."""
        return sum(batch.left for batch in self.core.batches.values() if not batch.group.depth)

    # ---- beginning

    def claim_work(self, work: Work, sequence: int) -> None:
        """A batch whose message is at `sequence`: it waits, or runs. Children go with the life that has handed them out."""
        if not work.origin:
            self._disowned.append((Token(work.token), work.count))
            return
        claim = self._claimed[Token(work.token)] = _Claim(work.count, sequence)
        for index, place in enumerate(places_of(work.origin)):
            if not self._tries.is_counted(place, sequence):
                self._claims[place] = claim, index

    def claim_report(self, report: Report) -> None:
        """A report that nobody has read. Of several attempts at a task the last one counts, be it there as work or as a report."""
        token, places = Token(report.token), list(places_of(report.origin))
        if not places:
            return
        marks = {mark.index: mark.kind for mark in report.marks}
        claim = self._claimed.setdefault(token, _Claim(len(places), report.sequence))
        for index in range(report.first, min(report.first + report.count, len(places))):
            known = self._claims.get(places[index])
            if self._tries.is_counted(places[index], claim.sequence):
                continue
            if index in marks:
                self._tries.on_mark(places[index], claim.sequence, marks[index])
            if known is None or known[0].sequence <= claim.sequence:
                self._claims[places[index]] = claim, index

    def start(self, now: float) -> list[Effect]:
        """Everything that was there at the beginning has been read."""
        for token, claim in self._claimed.items():
            if claim.group is not None:
                self.core.adopt(token, claim.group, claim.tasks, claim.sequence, now)
        self._claims.clear()
        self._claimed.clear()
        failed = self._tries.start()
        self._supply.start()
        self._opened = True
        stored = [Store(Settled(messages.PROTOCOL, (), tried=failed), [])] if failed else []
        return [*(self.core.disown(*batch) for batch in self._disowned), *stored, *self.plan(now)]

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
        self._supply.expect(sequence, block)
        if found.decided:
            self._advance()
            return
        self.core.window(block.lane)  # `on_slots` may come before anything is sent there
        lane = self._lanes.setdefault(found.lane, _Backlog())
        if self._is_claimed(sequence, block.count) or (not lane.parked and self._has_room(found.lane, lane)):
            self._load(sequence, block, entries)
        else:
            lane.parked.append(sequence)

    def _is_claimed(self, sequence: int, count: int) -> bool:
        return bool(self._claims) and any((sequence, index) in self._claims for index in range(count))

    def _has_room(self, name: LaneId, lane: _Backlog, share: int = 1) -> bool:
        return lane.has_room(self.core.feeding.by_lane[name], limits.BLOCK_AHEAD_TASKS // share)

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
        inputs = self._supply.inputs_of(sequence, block, entries)
        lane = self._lanes[found.lane]
        waiting: list[Task] = []
        for index in range(block.count):
            if found.done >> index & 1:
                continue
            entry = entries[index]
            cargo = Cargo((sequence, index), entry, blobs.get(index), inputs.get(index, ()))
            task = Task(group, len(entry), cargo)
            self._supply.link(task, self._live, self._fate)
            self._live[sequence, index] = task
            lane.tasks += 1
            lane.bytes += task.size
            claim, at = self._claims.get((sequence, index), (None, 0))
            self._tries.recall(task, claim.sequence if claim is not None else 0)
            if claim is not None and claim.group in (None, group):
                claim.group = group
                claim.tasks[at] = task
                self.core.feeding.link(task)
            else:
                waiting.append(task)
        self.core.on_submitted(group, waiting)

    def _fate(self, place: Place) -> Fate:
        block = self._blocks.get(place[0])
        if block is not None and block.count:
            return block.fate(place[1])
        return Fate.UNSEEN if place[0] < self.low else Fate.NOBODY

    def _is_stored(self, task: Task) -> bool:
        """Whether the outcome of a task that has ended outlives this life."""
        sequence, index = task.cargo.place
        block = self._blocks.get(sequence)
        return block is None or task.cargo.kind is Kind.LOST or bool(block.settled >> index & 1)

    def on_found(self, place: Place, record: int, kind: Kind) -> None:
        """The outcome of a task that others need is in the record of that sequence, 0 when there is none."""
        self._supply.on_found(place, record, kind)

    def record_of(self, place: Place) -> int:
        """The sequence of the record with the value of an input; 0 while that is not known."""
        return self._supply.record_of(place)

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
        freed, self.freed = self.freed, []
        effects = self.settle([*freed, *self.core.plan(now)])
        for name, lane in self._lanes.items():
            if lane.fetching or not lane.parked or not self._has_room(name, lane, 2):
                continue
            while lane.parked and (lane.parked[0] not in self._blocks or self._blocks[lane.parked[0]].decided):
                lane.parked.popleft()
            if lane.parked:
                lane.fetching = True
                self._fetching[lane.parked[0]] = name
                effects.append(Fetch(lane.parked.popleft()))
        return [*effects, *self._supply.seeks()]

    # ---- outcomes

    def on_report(self, report: Report, now: float) -> list[Effect]:
        """As `Session.on_report`. What ended is in a record to be stored; until then the report must stay."""
        batch = self.core.batches.get(Token(report.token)) if report.origin and report.marks else None
        marked = batch.tasks[report.first : report.first + report.count] if batch is not None else ()
        before = [(task, task.setbacks) for task in marked if task is not None]
        decided = self.core.on_report(report, now)
        return self.settle(decided, report, tried_in(report, before))

    def on_refused(self, token: Token, now: float, *, full: bool) -> list[Effect]:
        """As `Session.on_refused`."""
        return self.settle(self.core.on_refused(token, now, full=full))

    def on_lane_checked(self, lane: LaneId, asked_at: float, oldest: int) -> list[Effect]:
        """As `Session.on_lane_checked`."""
        return self.settle(self.core.on_lane_checked(lane, asked_at, oldest))

    def on_tick(self, now: float) -> list[Effect]:
        """As `Session.on_tick`."""
        return self.settle(self.core.on_tick(now))

    def settle(
        self, decided: Iterable[session.Effect], report: Report | None = None, tried: tuple[Tried, ...] = ()
    ) -> list[Effect]:
        """Put the outcomes among the effects into records, and what is counted against others; those of children stay as they are."""
        effects: list[Effect] = []
        outcomes = Outcomes(report)
        for effect in decided:
            if isinstance(effect, session.Delivered) and not effect.values[0][0].group.depth:
                for task, position in effect.values:
                    self._close(task)
                    outcomes.add_value(task, position)
            elif isinstance(effect, session.Ended) and not effect.task.group.depth:
                self._close(effect.task, effect.mark.kind)
                outcomes.add_end(effect)
            elif isinstance(effect, Unfed) and not self._is_stored(effect.cause):
                # Else a life to come could give the input another end.
                self._unfed.setdefault(effect.cause.cargo.place, []).append(effect)
            elif isinstance(effect, Unfed):
                kind = outcomes.add_unfed(effect)
                self._close(effect.task, kind)
            else:
                effects.append(effect)
            if len(outcomes.places) >= limits.STOP_TASKS_MAX and report is None:
                effects.append(outcomes.record())
                outcomes = Outcomes(None)
        if outcomes.places or tried:
            effects.append(outcomes.record(tried))
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
                    self._close(task, Kind.CANCELLED)
            elif block is not None and 0 <= place[1] < block.count and not block.done >> place[1] & 1:
                gone = True  # it is parked
                block.end(place[1], Kind.CANCELLED)
                self._count(Kind.CANCELLED)
                self._supply.on_withdrawn(place)
            ended.append(gone)
            if gone:
                over.append(place)
        if over:
            marks = tuple(Mark(index, Kind.CANCELLED) for index in range(len(over)))
            effects.append(Store(Settled(messages.PROTOCOL, runs_of(over), marks), []))
        return ended, effects

    def _count(self, kind: Kind) -> None:
        self.counts.done += kind is Kind.SUCCEEDED
        self.counts.failed += kind not in (Kind.SUCCEEDED, *STOPPED)
        self.counts.cancelled += kind in STOPPED

    def _close(self, task: Task, kind: Kind = Kind.SUCCEEDED) -> None:
        """The task has its outcome."""
        cargo: Cargo = task.cargo
        cargo.kind, place = kind, cargo.place
        self._count(kind)
        del self._live[place]
        lane = self._lanes[task.group.lane_id]
        lane.tasks -= 1
        lane.bytes -= task.size
        self._blocks[place[0]].end(place[1], kind)

    # ---- records

    def stamp(self, settled: Settled) -> Settled:
        """The record with the totals as they are now; call it just before storing it, also when that is tried again."""
        below, counts = self._below, self.core.counts
        return msgspec.structs.replace(
            settled, low=self.low, done=below.done, failed=below.failed, cancelled=below.cancelled,
            bytes_below=below.bytes_below, seconds=counts.seconds, cpu=counts.cpu,
        )  # fmt: skip

    def on_settled(self, settled: Settled, size: int, record: int) -> None:
        """This record is stored, at that sequence. `size`: its bytes. At the beginning of a life: each one from `low` on, in order."""
        marks = {mark.index: mark.kind for mark in settled.marks}
        size += sum(ref.size for ref in settled.blobs)
        self.bytes += size
        self._supply.note(settled.runs, record)
        fresh = not self._opened
        if fresh:
            self._tries.on_settled(settled.tried)
        for at, (sequence, index) in enumerate(places_of(settled.runs)):
            if sequence < self._below.low:
                continue
            block = self._blocks.setdefault(sequence, _Block())
            block.bytes, size = block.bytes + size, 0
            if fresh and block.done >> index & 1:
                continue
            block.settled |= 1 << index
            if self._unfed:
                self.freed += self._unfed.pop((sequence, index), ())
            if fresh:
                kind = marks.get(at, Kind.SUCCEEDED)
                block.end(index, kind)
                self._count(kind)
        self._advance()

    def _advance(self) -> None:
        """What is over, and has nothing before it that is not, is only counted from here on."""
        below = self._below
        while self._order and self._blocks[self._order[0]].over:
            sequence = self._order.popleft()
            block = self._blocks.pop(sequence)
            self._supply.release(sequence)
            failed, cancelled = block.failed.bit_count(), block.cancelled.bit_count()
            below.done += block.count - failed - cancelled
            below.failed += failed
            below.cancelled += cancelled
            below.bytes_below += block.bytes
        below.low = self.low
