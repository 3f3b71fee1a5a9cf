"""The world of a named session: the engine's streams, a node, and one life of a caretaker after the other, under faults."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from farmhand.core import named, session
from farmhand.core.settling import Store
from farmhand.core.supply import Given, Seek, Use
from farmhand.core.tasks import Batch
from farmhand.model import messages
from farmhand.model.ids import LaneId, Token
from farmhand.model.messages import Feed, Profile, Report, Work
from farmhand.model.named import Block, Input, Place, Settled, places_of, read_settled, runs_of
from farmhand.model.needs import Lane, Need
from farmhand.model.outcome import STOPPED, Kind, Mark
from farmhand.model.retry import Retry

LANES = (Lane(), Lane((Need("gpu", "", ""),)))
GROUPS = ((Profile("plain"), Retry()), (Profile("retried"), Retry(max=2, delay=0.5)))
HOPELESS = (Profile("hopeless"), Retry(max=2, delay=0.5))  # fails each time


class World:
    """The engine's streams, a node that takes work, and one life of a caretaker after the other."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.luck = random.Random(f"copies {seed}")
        self.now = 0.0
        self.sequence = 0
        self.blocks: dict[int, tuple[Block, list[Any]]] = {}
        self.records: dict[int, tuple[Settled, list[Any]]] = {}
        self.work: dict[int, Work] = {}
        self.taken: dict[int, list[Report]] = {}  # by a node: the reports that it still has to store
        self.results: dict[int, tuple[Report, list[Any]]] = {}
        self.late: list[Report] = []  # of nodes that were believed lost
        self.runs: Counter[Place] = Counter()
        self.excused: Counter[Place] = Counter()
        self.values: dict[Place, set[Any]] = {}
        self.inputs: dict[Place, list[Place]] = {}
        self.fed: dict[
            int, dict[int, list[Any]]
        ] = {}  # by token: what each call gets, an index in its batch or a value
        self.got: dict[Any, list[Any]] = {}  # by value: of which inputs it was made
        self.stopped: set[Place] = set()
        self.failed: Counter[Place] = Counter()  # runs that raised, and whose reports came in time
        self.names: dict[int, str] = {}  # the ids of blocks
        self.copies: set[int] = set()  # blocks that are stored a second time
        self.quiet = False  # no faults any more
        self.lives = 0
        self.live()

    def next(self) -> int:
        self.sequence += 1
        return self.sequence

    # ---- the caretaker's shell

    def live(self) -> None:
        """A caretaker's life begins: as `steward.named.Kept` does it."""
        self.lives += 1
        last = max(self.records) if self.records else None
        copied = messages.encode(self.records[last][0]) if last else b""
        self.core = named.NamedSession(b"%d" % self.lives, read_settled(copied) if last else None)
        self.pending: list[tuple[str, Any]] = []
        self.unsettled: Counter[int] = Counter()
        self.cache: dict[Place, Any] = {}  # values that are wanted; any of them may be dropped
        self.processed = 0
        for sequence in sorted(self.records):
            if sequence >= self.core.low:
                self.core.on_settled(self.records[sequence][0], 1, sequence)
        for sequence, work in sorted(self.work.items()):
            self.core.claim_work(work, sequence)
        early = sorted(self.results)
        for sequence in early:
            self.core.claim_report(self.results[sequence][0])
        self.read = self.core.low - 1
        while self.read_block():
            pass
        for lane in LANES:
            self.core.core.on_slots(lane.id, 1)
        self.do(self.core.start(self.now), 0, [])
        for sequence in early:
            self.report(sequence)

    def read_block(self) -> bool:
        sequence = min((s for s in self.blocks if s > self.read), default=0)
        if sequence:
            self.read = sequence
            block, entries = self.blocks[sequence]
            if missing := self.core.copies.missing(block.after):
                found: dict[str, int] = {}
                for earlier in sorted(s for s in self.blocks if s in missing):
                    found.setdefault(self.names[earlier], earlier)
                self.core.copies.on_earlier(missing, found)
            self.core.on_block(sequence, block, entries, 1, self.names[sequence])
            self.core.core.on_slots(block.lane.id, 1)
            self.plan()
        return bool(sequence)

    def report(self, sequence: int) -> None:
        report, entries = self.results[sequence]
        self.processed = sequence
        self.do(self.core.on_report(report, self.now), sequence, entries)
        self.plan()

    def plan(self) -> None:
        self.do(self.core.plan(self.now), 0, [])

    def do(self, effects: list[named.Effect], sequence: int, entries: list[Any]) -> None:
        for effect in effects:
            match effect:
                case session.Send():
                    batch = effect.batch
                    places = [task.cargo.place for task in batch.tasks if task is not None]
                    work = Work(
                        messages.PROTOCOL, "n", batch.token, batch.count, batch.group.profile, origin=runs_of(places)
                    )
                    self.fed[batch.token] = self.feeds(batch)
                    self.pending.append(("work", work))
                case Seek():
                    self.pending.append(("seek", effect))
                case Store():
                    self.cache.update({place: entries[at] for place, at, _ in effect.wanted})
                    sequence = sequence or self.processed + 1
                    self.unsettled[sequence] += 1
                    self.pending.append(("out", (effect.settled, [entries[at] for at in effect.positions], sequence)))
                case named.Fetch():
                    self.pending.append(("fetch", effect.block))
                case session.CheckLane():
                    self.pending.append(("check", (effect.lane, self.now)))

    def feeds(self, batch: Batch) -> dict[int, list[Any]]:
        """What the message carries for the calls that have inputs; as `steward.supplies` does it."""
        tasks = [task for task in batch.tasks if task is not None]
        at = {task.cargo.place: index for index, task in enumerate(tasks)}
        found: dict[int, list[Any]] = {}
        for index, task in enumerate(tasks):
            for given in task.cargo.inputs:
                if isinstance(given, Given):
                    assert given.entry == b"given"
                    continue
                assert isinstance(given, Use)
                ahead = at.get(given.place)
                assert ahead is None or ahead < index, "an input is behind the call that needs it"
                value = ahead if ahead is not None else self.value_of(given.place)
                found.setdefault(index, []).append(value)
        return found

    def value_of(self, place: Place) -> Any:
        """From memory, from its record, or from the record that is just being stored."""
        if self.chance.random() < 0.3:
            self.cache.pop(place, None)
        if place in self.cache:
            return self.cache[place]
        stored = self.records.get(self.core.record_of(place))
        waiting = [(settled, body) for kind, what in self.pending if kind == "out" for settled, body, _ in [what]]
        for settled, body in [stored] if stored is not None else waiting:
            kind, value = outcomes_in(settled, body).get(place, (None, None))
            if kind is Kind.SUCCEEDED:
                return value
        raise AssertionError(f"nobody knows the value of {place}")

    def answer_seek(self, seek: Seek) -> None:
        for sequence, (settled, body) in sorted(self.records.items()):
            if sequence >= seek.after and (found := outcomes_in(settled, body).get(seek.place)):
                self.core.on_found(seek.place, sequence, found[0])
                return
        raise AssertionError(f"the outcome of {seek.place} is not recorded from {seek.after} on")

    def answer(self) -> bool:
        """The engine answers one request; not always the oldest, and not always well."""
        if not self.pending:
            return False
        kind, what = self.pending.pop(self.chance.randrange(len(self.pending)))
        refused = self.chance.random() < (0.0 if self.quiet and kind != "fetch" else 0.2)
        if kind == "work":
            self.answer_work(what, refused=refused)
        elif kind == "check":
            self.answer_check(*what)
        elif kind in ("out", "seek") and refused:
            self.pending.append((kind, what))
        elif kind == "seek":
            self.answer_seek(what)
        elif kind == "out":
            settled, body, sequence = what
            self.records[self.next()] = (self.core.stamp(settled), body)
            self.unsettled[sequence] -= 1
            self.core.on_settled(settled, 1, self.sequence)
        elif refused:
            self.core.on_not_fetched(what)
        else:
            self.core.on_fetched(what, *self.blocks[what])
        self.plan()
        return True

    def answer_work(self, work: Work, *, refused: bool) -> None:
        if refused:
            self.do(self.core.on_refused(Token(work.token), self.now, full=True), 0, [])
            return
        sequence = self.next()
        self.work[sequence] = work
        self.core.core.on_stored(Token(work.token), sequence)

    def answer_check(self, lane: LaneId, asked_at: float) -> None:
        """The caretaker asks for its oldest work. Reports reach it much sooner than it asks a second time."""
        while self.read_report():
            pass
        there = (s for s, work in self.work.items() if self.blocks[work.origin[0][0]][0].lane.id == lane)
        self.do(self.core.on_lane_checked(lane, asked_at, min(there, default=0)), 0, [])

    # ---- what happens

    def submit(self) -> None:
        profile, retry = self.chance.choice(GROUPS)
        if self.luck.random() < 0.15:
            profile, retry = HOPELESS
        count = self.chance.randint(1, 6)
        sequence = self.next()
        entries: list[Any] = [f"{sequence}.{index}".encode() for index in range(count)]
        feeds, inputs = [], []
        for index in range(count):
            if self.chance.random() < 0.5:
                continue
            known = list(self.counted().items())
            earlier = [(block, at) for block, made in known[-6:] for at in range(made.count)]
            if self.chance.random() < 0.1:
                earlier = [(block, at) for block, made in known for at in range(made.count)]
            wanted = self.chance.sample(earlier, min(len(earlier), self.chance.randint(0, 2)))
            places = [len(entries) + at for at in range(len(wanted))]
            inputs += [Input(place, *of, self.known_from(of)) for place, of in zip(places, wanted, strict=True)]
            entries += [None] * len(wanted)
            if index and self.chance.random() < 0.5:
                ahead = self.chance.randrange(index)
                places.append(ahead)
                wanted.append((sequence, ahead))
            if self.chance.random() < 0.2:
                places.append(len(entries))
                entries.append(b"given")
            self.inputs[sequence, index] = wanted
            feeds.append(Feed(index, tuple(places)))
        after = max((s for s in self.blocks if self.luck.random() < 0.7), default=0)  # it has not heard of all
        block = Block(messages.PROTOCOL, "n", count, profile, self.chance.choice(LANES), retry,
                      after=after, feeds=tuple(feeds), inputs=tuple(inputs))  # fmt: skip
        self.blocks[sequence] = (block, entries)
        self.names[sequence] = f"id {sequence}"
        if self.luck.random() < 0.1:
            self.repeat()

    def repeat(self) -> None:
        """A client stores a block once more that the engine has, and does not know any more to have."""
        first, sequence = self.luck.choice(list(self.blocks)), self.next()
        self.blocks[sequence], self.names[sequence] = self.blocks[first], self.names[first]
        self.copies.add(sequence)

    def counted(self) -> dict[int, Block]:
        """The blocks that are no copies."""
        return {sequence: block for sequence, (block, _) in self.blocks.items() if sequence not in self.copies}

    def known_from(self, place: Place) -> int:
        """What a client says that has read some of the records."""
        read = self.chance.choice([0, *self.records])
        for sequence, (settled, body) in self.records.items():
            if sequence <= read and place in outcomes_in(settled, body):
                return sequence
        return read + 1

    def take(self) -> None:
        """A node runs a batch; its reports come in one or two parts."""
        waiting = [sequence for sequence in self.work if sequence not in self.taken]
        if not waiting:
            return
        sequence = self.chance.choice(waiting)
        work = self.work[sequence]
        places = list(places_of(work.origin))
        cut = self.chance.randint(1, work.count)
        reports = []
        made: dict[int, Any] = {}
        for first, end in ((0, cut), (cut, work.count)):
            if first == end:
                continue
            marks, entries = [], []
            for index in range(first, end):
                dice = 1.0 if self.quiet else self.chance.random()
                inputs = [
                    made.get(given) if isinstance(given, int) else given
                    for given in self.fed[work.token].get(index, [])
                ]
                if dice < 0.1 or None in inputs:
                    marks.append(Mark(index, Kind.RETURNED))
                    continue
                self.runs[places[index]] += 1
                value = (places[index], self.runs[places[index]])
                self.got[value] = inputs
                self.values.setdefault(places[index], set()).add(value)
                entries.append(value)
                if dice < 0.3 or work.profile.code == "hopeless":
                    marks.append(Mark(index, Kind.RAISED))
                    self.excused[places[index]] += work.profile.code != "plain"
                else:
                    made[index] = value
            report = Report(
                messages.PROTOCOL,
                work.token,
                first,
                end - first,
                "node",
                0,
                tuple(marks),
                origin=work.origin,
                sequence=sequence,
            )
            reports.append((report, entries))
        self.taken[sequence] = reports

    def store_report(self) -> None:
        held = [sequence for sequence in self.taken if sequence in self.work]
        if not held:
            return
        sequence = self.chance.choice(held)
        reports = self.taken[sequence]
        if reports:
            report, entries = reports.pop(0)
            self.results[self.next()] = (report, entries)
            places = list(places_of(report.origin))
            self.failed.update(places[mark.index] for mark in report.marks if mark.kind is Kind.RAISED)
        else:
            del self.taken[sequence], self.work[sequence]  # acknowledged

    def lose(self) -> None:
        """The steward believes a node lost, and gives its work back; what the node has still to say comes late."""
        held = [sequence for sequence in self.taken if sequence in self.work]
        if not held:
            return
        sequence = self.chance.choice(held)
        work = self.work.pop(sequence)
        for report, _ in self.taken[sequence]:
            for place in list(places_of(work.origin))[report.first : report.first + report.count]:
                self.excused[place] += 1
        marks = tuple(Mark(index, Kind.LOST) for index in range(work.count))
        lost = Report(
            messages.PROTOCOL, work.token, 0, work.count, "steward", -1, marks, origin=work.origin, sequence=sequence
        )
        self.results[self.next()] = (lost, [])
        for late in self.taken.pop(sequence):
            if self.chance.random() < 0.5:
                self.results[self.next()] = late

    def read_report(self) -> bool:
        sequence = min((s for s in self.results if s > self.processed), default=0)
        if sequence:
            self.report(sequence)
        return bool(sequence)

    def purge(self) -> None:
        below = min([self.processed + 1, *(s for s, n in self.unsettled.items() if n)])
        self.results = {s: r for s, r in self.results.items() if s >= below}

    def stop(self) -> None:
        if self.blocks:
            sequence = self.chance.choice(list(self.blocks))
            place = (sequence, self.chance.randrange(self.blocks[sequence][0].count))
            self.stopped.add(place)
            _, effects = self.core.stop([place], kill=self.chance.random() < 0.5)
            self.do(effects, 0, [])

    def tick(self) -> None:
        self.now += self.chance.choice((0.1, 2.0))
        self.do(self.core.on_tick(self.now), 0, [])
        self.plan()

    def storm(self, steps: int) -> None:
        actions = (self.submit, self.read_block, self.answer, self.answer, self.take, self.take, self.store_report,
                   self.store_report, self.read_report, self.read_report, self.lose, self.purge, self.stop,
                   self.tick)  # fmt: skip
        for _ in range(steps):
            if self.chance.random() < 0.02:
                self.live()
            else:
                self.chance.choice(actions)()

    def settle(self) -> None:
        """No more faults: everything comes to its end."""
        self.quiet = True
        for _ in range(10_000):
            if not (self.core.open or self.pending or self.work or self.read_block()):
                return
            self.answer()
            self.take()
            self.store_report()
            self.read_report()
            self.tick()
        raise AssertionError(f"{self.core.open} tasks never ended")

    def outcomes(self) -> dict[Place, tuple[Kind, Any]]:
        found: dict[Place, tuple[Kind, Any]] = {}
        for settled, body in self.records.values():
            some = outcomes_in(settled, body)
            assert not found.keys() & some.keys(), "a task has two outcomes"
            found |= some
        return found

    def all_inputs(self, place: Place) -> set[Place]:
        found, near = set(), [place]
        while near:
            new = set(self.inputs.get(near.pop(), ())) - found
            found |= new
            near += new
        return found

    def check_inputs(self, outcomes: dict[Place, tuple[Kind, Any]]) -> None:
        """Who has run had the values that were recorded, and who has not run had a reason."""
        for place, inputs in self.inputs.items():
            kind, value = outcomes[place]
            ends = {outcomes[given][0] for given in inputs}
            if kind in (Kind.SUCCEEDED, Kind.RAISED):
                got = sorted(self.got[value])
                for given in inputs:
                    assert outcomes[given][0] in (Kind.SUCCEEDED, *STOPPED), f"{place} ran without {given}"
                if ends <= {Kind.SUCCEEDED}:  # one may be withdrawn when its value is in the next call already
                    assert [of for of, _ in got] == sorted(inputs), f"{place} had other inputs"
                    for one in got:  # after a loss it is of one of the runs
                        assert one == outcomes[one[0]][1] or self.runs[one[0]] > 1, f"{place} had other values"
            elif kind is Kind.REFUSED:
                far = {outcomes[given][0] for given in self.all_inputs(place)}
                assert far & {Kind.RAISED, Kind.KILLED}, f"{place} did not run, though it could"
            elif kind is Kind.CANCELLED and place not in self.stopped:
                far = {outcomes[given][0] for given in self.all_inputs(place)}
                assert Kind.CANCELLED in far, f"{place} was cancelled by nobody"
        for settled, body in self.records.values():
            for at, block, index in settled.causes:
                assert list(outcomes_in(settled, body).values())[at][0] is Kind.REFUSED
                assert outcomes[block, index][0] not in (Kind.SUCCEEDED, Kind.CANCELLED)


def outcomes_in(settled: Settled, body: list[Any]) -> dict[Place, tuple[Kind, Any]]:
    marks = {mark.index: mark.kind for mark in settled.marks}
    values = iter(body)
    found: dict[Place, tuple[Kind, Any]] = {}
    for at, place in enumerate(places_of(settled.runs)):
        assert place not in found, f"{place} has two outcomes"
        kind = marks.get(at, Kind.SUCCEEDED)
        found[place] = kind, next(values) if kind in (Kind.SUCCEEDED, Kind.RAISED) else None
    return found
