"""Children in a named session: they are no tasks of its own, and go with the life of the caretaker that has handed them out."""

from __future__ import annotations

import itertools

import msgspec

from farmhand.core import session
from farmhand.core.family import Families, ParentLine
from farmhand.core.named import NamedSession
from farmhand.core.settling import Store
from farmhand.core.tasks import Batch
from farmhand.model import messages
from farmhand.model.messages import Profile, Report, Work
from farmhand.model.named import Block
from farmhand.model.needs import Lane
from farmhand.model.nested import ChildGroup, Event, NestedAnswer, What, Word
from farmhand.model.outcome import Kind, Mark
from farmhand.model.retry import Retry

LANE = Lane()
RAW = msgspec.Raw(msgspec.msgpack.encode([1]))


def life(secret: bytes, *works: Work) -> tuple[NamedSession, list[object]]:
    """A caretaker's life with one stored task."""
    core = NamedSession(secret)
    for at, work in enumerate(works, 10):
        core.claim_work(work, at)
    core.on_block(1, Block(messages.PROTOCOL, "n", 1, Profile("parent"), LANE, Retry()), [b"call"], 1)
    core.core.on_slots(LANE.id, 4)
    return core, [*core.start(0.0)]


def sent(effects: list[object]) -> list[Batch]:
    return [effect.batch for effect in effects if isinstance(effect, session.Send)]


def work_of(batch: Batch, *, origin: bool) -> Work:
    return Work(
        messages.PROTOCOL, "n", batch.token, batch.count, batch.group.profile, origin=((1, 0, 1),) if origin else ()
    )


def with_a_child() -> tuple[NamedSession, Families, ParentLine, Batch, Batch]:
    core, effects = life(b"first")
    (parent,) = sent(effects)
    families = Families(core.core, itertools.count(1))
    line = ParentLine(parent.token, 0, "node", "run")
    line.words.append(Word((ChildGroup(Profile("child"), LANE, Retry()),), ((1, 0, 10),), (RAW,)))
    families.on_nested(line.speak()[0])
    (child,) = sent([*core.plan(0.0)])
    return core, families, line, parent, child


def test_a_child_is_not_counted_and_not_recorded() -> None:
    core, families, line, parent, child = with_a_child()
    assert (core.submitted, core.open, core.running) == (1, 1, 1)
    (delivered,) = core.on_report(Report(messages.PROTOCOL, child.token, 0, 1, "node", 0), 0.0)
    assert isinstance(delivered, session.Delivered)
    families.settle(delivered.values[0][0].cargo, Event(1, What.SUCCEEDED, RAW))
    for _, answer in families.due():
        assert [event.number for event in line.on_answer(answer)] == [1]
    ended = core.on_report(Report(messages.PROTOCOL, parent.token, 0, 1, "node", 0), 0.0)
    assert [effect.settled.runs for effect in ended if isinstance(effect, Store)] == [((1, 0, 1),)]
    assert (core.counts.done, core.open) == (1, 0)


def test_a_child_that_fails_is_its_parents() -> None:
    core, _, _, _, child = with_a_child()
    report = Report(messages.PROTOCOL, child.token, 0, 1, "node", 0, (Mark(0, Kind.RAISED),))
    (ended,) = core.on_report(report, 0.0)
    assert isinstance(ended, session.Ended)
    assert (core.counts.failed, core.open) == (0, 1)


def test_stopping_a_parent_stops_its_children() -> None:
    core, families, _, parent, child = with_a_child()
    core.core.on_started(parent.token, 0, "node")
    core.stop([(1, 0)], kill=True)
    core.on_report(Report(messages.PROTOCOL, parent.token, 0, 1, "node", 0, (Mark(0, Kind.KILLED),)), 0.0)
    taken = families.collect()
    targets = [target for effect in taken.effects if isinstance(effect, session.Stop) for target in effect.targets]
    assert targets == [(child.token, 0)]
    assert (core.counts.cancelled, core.open) == (1, 0)


def test_the_next_life_stops_children_and_lets_the_parent_begin_anew() -> None:
    _, _, line, parent, child = with_a_child()
    line.on_answer(NestedAnswer(line.token, line.index, line.run, 1))
    core, effects = life(b"second", work_of(parent, origin=True), work_of(child, origin=False))
    stops = [target for effect in effects if isinstance(effect, session.Stop) for target in effect.targets]
    assert stops == [(child.token, 0)]
    assert not sent(effects), "the parent runs"
    families = Families(core.core, itertools.count(1))
    early, _ = line.speak()
    assert families.on_nested(early)[1].effects == [], "what was said before may only have been lost"
    line.again = True
    family, taken = families.on_nested(line.speak()[0])
    assert family is None
    assert not taken.gone
    assert [effect.targets for effect in taken.effects if isinstance(effect, session.Stop)] == [[(parent.token, 0)]]
    (again,) = sent([*core.settle(taken.effects), *core.plan(0.0)])
    assert again.token != parent.token
    assert families.on_nested(line.speak()[0])[1].gone, "the earlier run is nobody's"


def test_a_parent_whose_words_were_not_taken_goes_on_in_the_next_life() -> None:
    core, effects = life(b"first")
    (parent,) = sent(effects)
    line = ParentLine(parent.token, 0, "node", "run")
    line.words.append(Word((ChildGroup(Profile("child"), LANE, Retry()),), ((1, 0, 10),), (RAW,)))
    line.speak()  # to nobody
    core, _ = life(b"second", work_of(parent, origin=True))
    line.again = True
    family, taken = Families(core.core, itertools.count(1)).on_nested(line.speak()[0])
    assert family is not None
    assert not taken.effects
    assert len(sent([*core.plan(0.0)])) == 1


def test_reports_of_children_of_an_earlier_life_are_dropped() -> None:
    core = NamedSession(b"second")
    report = Report(messages.PROTOCOL, 77, 0, 1, "node", 0)
    core.claim_report(report)
    assert core.start(0.0) == []
    assert core.on_report(report, 0.0) == []
    assert core.open == 0
