"""Parents and children: words are taken once, events are kept until they have come, and a family ends with its parent."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from farmhand.core.effects import Send, Stop
from farmhand.core.family import Families, ParentLine
from farmhand.core.session import Session
from farmhand.core.tasks import Group, Task, TaskState
from farmhand.model import limits, messages
from farmhand.model.ids import Token
from farmhand.model.messages import Profile, Report
from farmhand.model.needs import Lane
from farmhand.model.nested import ChildGroup, Event, Nested, What, Word
from farmhand.model.outcome import Kind, Mark
from farmhand.model.retry import Retry

LANE = Lane()
RAW = msgspec.Raw(msgspec.msgpack.encode([1]))
GROUP = ChildGroup(Profile("child"), LANE, Retry())


class World:
    """A session with one parent that runs."""

    def __init__(self, depth: int = 0) -> None:
        self.session = Session(b"s" * 16)
        self.families = Families(self.session, itertools.count(1))
        self.group = Group(LANE, Profile("parent"), Retry(), depth)
        self.parent = Task(self.group, 10, "parent")
        self.session.on_submitted(self.group, [self.parent])
        self.session.on_slots(LANE.id, 1)
        (send,) = self.session.plan(0.0)
        assert isinstance(send, Send)
        self.token = send.batch.token
        self.session.on_started(self.token, 0, "n")
        self.line = ParentLine(self.token, 0, "n", "run")

    def word(self, *numbers: int, stops: tuple[int, ...] = ()) -> Word:
        return Word((GROUP,), tuple((n, 0, 10) for n in numbers), (RAW,) * len(numbers), (), stops)

    def say(self, *numbers: int) -> Nested:
        self.line.words.append(self.word(*numbers))
        said, more = self.line.speak()
        assert not more
        return said

    def children(self) -> list[Task]:
        return list(self.session.families[self.token, 0].children.values())

    def events(self) -> list[Event]:
        found: list[Event] = []
        for _, answer in self.families.due():
            new = self.line.on_answer(answer)
            self.line.seen += len(new)
            found += new
        return found


def test_a_word_that_comes_twice_is_taken_once() -> None:
    world = World()
    said = world.say(1, 2)
    world.families.on_nested(said)
    world.families.on_nested(said)
    assert len(world.children()) == 2
    assert world.session.open == 3
    assert world.line.words
    assert world.events() == []
    assert not world.line.words  # accepted


def test_an_outcome_is_told_until_it_has_come() -> None:
    world = World()
    world.families.on_nested(world.say(1))
    world.families.due()  # lost on its way
    world.families.settle(world.children()[0].cargo, Event(1, What.SUCCEEDED, (7,)))
    world.families.on_nested(world.line.speak()[0])
    world.families.due()  # lost too
    world.line.again = True
    world.families.on_nested(world.line.speak()[0])
    assert [event.entry for event in world.events()] == [(7,)]
    world.families.on_nested(world.line.speak()[0])
    assert not world.session.families[world.token, 0].events


def test_a_late_word_does_not_number_events_wrongly() -> None:
    world = World()
    world.families.on_nested(world.say(1, 2))
    late = Nested(world.token, 0, "n", "run", 2, (), 0, True)
    first, second = (task.cargo for task in world.children())
    world.families.settle(first, Event(1, What.SUCCEEDED))
    assert len(world.events()) == 1
    world.families.on_nested(world.line.speak()[0])  # the first is acknowledged
    world.families.settle(second, Event(2, What.SUCCEEDED))
    world.families.on_nested(late)
    assert [event.number for event in world.events()] == [2]


def test_the_end_of_a_parent_stops_its_children() -> None:
    world = World()
    world.families.on_nested(world.say(1, 2))
    running, waiting = world.children()
    world.session.plan(0.1)
    world.session.on_started(running.token, running.index, "n")
    world.session.on_report(Report(messages.PROTOCOL, world.token, 0, 1, "n", 0, (Mark(0, Kind.RETURNED),)), 0.2)
    taken = world.families.collect()
    assert waiting.state is TaskState.DONE
    assert running.killing
    assert any(isinstance(effect, Stop) for effect in taken.effects)
    family, again = world.families.on_nested(world.line.speak()[0])
    assert family is None
    assert again.gone


def test_a_waiting_parent_does_not_fill_the_window_of_its_children() -> None:
    world = World()
    window = world.session.windows[LANE.id]
    room = window.room(1)
    assert window.room() == room - 1
    world.families.on_nested(world.say(1))
    assert isinstance(world.session.plan(0.1)[0], Send)
    assert (window.room(), window.room(1), window.room(2)) == (room - 2, room - 1, room)


def test_the_later_run_of_an_attempt_counts() -> None:
    world = World()
    world.families.on_nested(world.say(1))
    other = Nested(world.token, 0, "n2", "later", 1, (world.word(1),))
    family, _ = world.families.on_nested(other)
    assert family is not None
    assert len(world.families.collect().entries) == 1
    assert world.families.on_nested(world.line.speak()[0])[1].gone


@pytest.mark.parametrize(("depth", "error"), [(limits.NESTED_DEPTH_MAX, "NestedTooDeep"), (0, "TooManyChildren")])
def test_limits(depth: int, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NESTED_CHILDREN_MAX", 2)
    world = World(depth)
    world.families.on_nested(world.say(1, 2, 3))
    told = world.events()
    assert [event.kind for event in told] == [error] * (3 if depth else 1)
    assert "NESTED_" in told[0].text


def test_a_child_is_stopped_on_its_parents_wish() -> None:
    world = World()
    world.families.on_nested(world.say(1))
    world.line.words.append(world.word(stops=(1,)))
    world.families.on_nested(world.line.speak()[0])
    (event,) = world.events()
    assert event.mark is not None
    assert event.mark.kind is Kind.KILLED
    assert world.families.open == 0


def test_nobody_speaks_for_a_task_that_does_not_run() -> None:
    world = World()
    assert world.families.on_nested(Nested(Token(5), 0, "n", "run", 1))[1].gone
    assert world.families.on_nested(Nested(world.token, 1, "n", "run", 1))[1].gone
