"""Tasks that submit: a parent, its children, and what is said between them.

`Families` stands beside a `Session` and belongs to whoever drives that: it takes a parent's words, makes its children
tasks of the session, and keeps their outcomes until the parent has them. `ParentLine` is the other end, on the parent's node.

Rule 1: a family lives as long as the attempt of its parent. When that has left its batch, for whatever reason, the children
that have no outcome are stopped; a parent that runs again starts its children anew.
Rule 2: words and events are numbered, and each is taken once and in order, however often it is said.
Rule 3: of two runs of one attempt the later counts; the earlier is told that it is gone.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from farmhand import errors
from farmhand.core import session as core
from farmhand.core.tasks import Group, Task, TaskState
from farmhand.model import limits
from farmhand.model.ids import Token
from farmhand.model.messages import Profile
from farmhand.model.needs import Lane
from farmhand.model.nested import ChildGroup, Event, Nested, NestedAnswer, What, Word
from farmhand.model.outcome import BlobRef, Kind, Mark
from farmhand.model.retry import Retry

_EVENT_BYTES = 64  # of an event beside its entry
_GROUPS_MAX = 4096  # of children, whose learned durations are remembered


class Child:
    """The cargo of a child's task: whose it is, and its packed call. The session's driver sees it where a future stands else."""

    __slots__ = ("_entry", "families", "family", "number", "ordinal")
    _inputs: Final = ()  # it has no values of other tasks
    _buffers: Final = 0

    def __init__(self, families: Families, family: Family, ordinal: int, entry: Any) -> None:
        self.families = families
        self.family = family
        self.ordinal = ordinal  # among its parent's children
        self.number = next(families.numbers)  # among the session's tasks, for people
        self._entry = entry  # a BlobRef in the place of large arguments

    @property
    def entry(self) -> Any:
        """Its packed call, or where that is."""
        return self._entry

    @property
    def blob(self) -> BlobRef | None:
        """Its large arguments."""
        return self._entry if isinstance(self._entry, BlobRef) else None

    def on_running(self, node: str = "") -> None:
        """A node says that it runs."""
        self.family.add(Event(self.ordinal, What.RUNNING, node=node))

    def cancel(self) -> bool:
        """A child goes with its parent, and not when the session's own tasks are withdrawn."""
        return False

    def done(self) -> bool:
        """Whether it has its outcome."""
        return self.ordinal not in self.family.children

    def set_exception(self, error: BaseException) -> None:
        """The session can do nothing more for it."""
        self.families.settle(self, Event(self.ordinal, What.REFUSED, kind=type(error).__name__, text=str(error)))

    def on_forked(self, error: Exception) -> None:
        """A forked process of the driver has no part in it."""


class Family:
    """The children of one run of one attempt of a task."""

    __slots__ = ("accepted", "asker", "children", "depth", "earlier", "events", "index", "news", "owes", "run", "sent",
                 "sequence", "token")  # fmt: skip

    def __init__(
        self, token: Token, index: int, run: str, depth: int, earlier: frozenset[str], news: set[Family]
    ) -> None:
        self.news = news  # families that may have something to say
        self.token = token
        self.index = index
        self.run = run
        self.depth = depth  # of the parent
        self.earlier = earlier  # runs of the same attempt that do not count any more
        self.accepted = 0  # words
        self.children: dict[int, Task] = {}  # without an outcome, by number
        self.events: deque[tuple[int, Event]] = deque()  # not acknowledged
        self.sequence = 0  # of the last event
        self.sent = 0
        self.asker = ""  # the node that waits for an answer
        self.owes = False  # an answer is due even without events

    def add(self, event: Event) -> None:
        """Something happened to a child."""
        self.sequence += 1
        self.events.append((self.sequence, event))
        self.news.add(self)

    def answer(self) -> NestedAnswer | None:
        """What to tell the node now; None when there is nothing to say, or nobody waits for it."""
        if not self.asker or not (self.owes or self.sequence > self.sent):
            return None
        told: list[Event] = []
        size, first = 0, self.sent + 1
        for sequence, event in self.events:
            if sequence <= self.sent:
                continue
            size += _EVENT_BYTES + (len(event.entry) if isinstance(event.entry, bytes | msgspec.Raw) else 0)
            if told and size > limits.NESTED_ANSWER_BYTES:
                break
            told.append(event)
            self.sent = sequence
        self.owes, self.asker = False, ""
        return NestedAnswer(self.token, self.index, self.run, self.accepted, first, tuple(told))


class Taken(msgspec.Struct):
    """What follows from a parent's words, or from its end."""

    effects: list[core.Effect] = []
    lanes: list[Lane] = []  # in which children wait
    entries: list[Child] = []  # whose arguments are not needed any more
    blobs: list[BlobRef] = []  # outcomes that nobody will fetch
    gone: bool = False


class Families:
    """See the head of this file."""

    def __init__(self, session: core.Session, numbers: Iterator[int]) -> None:
        """`numbers` are those of the session's tasks."""
        self._session = session
        self.numbers = numbers
        self._groups: OrderedDict[tuple[Profile, Lane, Retry, int], Group] = OrderedDict()
        self.news: set[Family] = set()  # those that may have something to say
        self.open = 0  # children without an outcome

    def groups(self) -> list[Group]:
        """What children are in."""
        return list(self._groups.values())

    # ---- the parent speaks

    def on_nested(self, nested: Nested) -> tuple[Family | None, Taken]:
        """Words of a parent have come, perhaps not for the first time. No family: nobody waits for this run."""
        taken = Taken()
        family = self._family(nested)
        if family is None:
            taken.gone = True
            return None, taken
        if nested.again and nested.first > family.accepted + 1:
            taken.effects += self._rerun(family)
            return None, taken
        for number, word in enumerate(nested.words, nested.first):
            if number == family.accepted + 1:
                family.accepted = number
                self._take(family, word, taken)
        while family.events and family.events[0][0] <= nested.seen:
            family.events.popleft()
        if nested.again:  # it may be late, and older than what is acknowledged
            family.sent = min(family.sent, max(nested.seen, family.sequence - len(family.events)))
        family.asker = nested.node
        self.news.add(family)
        family.owes = family.owes or bool(nested.words) or nested.again
        return family, taken

    def _family(self, nested: Nested) -> Family | None:
        session, key = self._session, (Token(nested.token), nested.index)
        batch = session.batches.get(key[0])
        if batch is None or not 0 <= nested.index < batch.count or batch.tasks[nested.index] is None:
            return None
        family = session.families.get(key)
        if family is not None and family.run == nested.run:
            return family
        earlier: frozenset[str] = frozenset()
        if family is not None:
            if nested.run in family.earlier:
                return None
            earlier = family.earlier | {family.run}
            session.end_family(family)
        family = session.families[key] = Family(*key, nested.run, batch.group.depth, earlier, self.news)
        return family

    def _rerun(self, family: Family) -> list[core.Effect]:
        """An earlier life of this session has taken words that nobody knows any more: the parent begins anew."""
        session = self._session
        batch = session.batches[family.token]
        task = batch.tasks[family.index]
        assert task is not None
        return [session._stop(task, limits.STOP_TRIES), *session._again(batch, task)]

    def _take(self, family: Family, word: Word, taken: Taken) -> None:
        session = self._session
        blobs = {ref.index: ref for ref in word.blobs}
        groups = [self._group(group, family.depth + 1) for group in word.groups]
        for (number, position, size), entry in zip(word.children, word.entries, strict=False):
            child = Child(self, family, number, blobs.get(number, entry))
            if (refused := self._refusal(family)) is not None:
                family.add(Event(number, What.REFUSED, kind=type(refused).__name__, text=str(refused)))
                taken.entries.append(child)
                continue
            group = groups[position]
            task = Task(group, size, child)
            family.children[number] = task
            self.open += 1
            session.on_submitted(group, [task])
        taken.lanes += [group.lane for group in groups]
        for number in word.stops:
            if (unwanted := family.children.get(number)) is not None:
                self._stop(unwanted, taken)

    def _group(self, group: ChildGroup, depth: int) -> Group:
        key = (group.profile, group.lane, group.retry, depth)
        found = self._groups.get(key)
        if found is None:
            found = self._groups[key] = Group(group.lane, group.profile, group.retry, depth)
            if len(self._groups) > _GROUPS_MAX:
                old, oldest = next(iter(self._groups.items()))
                if not oldest.active:
                    del self._groups[old]
        return found

    def _refusal(self, family: Family) -> errors.TaskError | None:
        """Why one child more is too many."""
        if family.depth >= limits.NESTED_DEPTH_MAX:
            return errors.NestedTooDeep()
        if len(family.children) >= limits.NESTED_CHILDREN_MAX or self.open >= limits.NESTED_SESSION_MAX:
            return errors.TooManyChildren()
        return None

    def _stop(self, task: Task, taken: Taken) -> None:
        ended, effects = self._session.kill(task)
        taken.effects += effects
        if ended:
            taken.entries.append(task.cargo)
            self.settle(task.cargo, Event(task.cargo.ordinal, What.ENDED, mark=Mark(0, Kind.KILLED)))

    # ---- outcomes

    def settle(self, child: Child, event: Event) -> None:
        """A child has its outcome."""
        family = child.family
        if family.children.pop(child.ordinal, None) is None:
            return
        self.open -= 1
        family.add(event)

    # ---- the end

    def collect(self) -> Taken:
        """Stop what the parents that have ended leave. To be called after every event of the session."""
        taken = Taken()
        while self._session.orphaned:
            family = self._session.orphaned.pop()
            taken.blobs += [event.blob for _, event in family.events if event.blob is not None]
            family.events.clear()
            for task in list(family.children.values()):
                if task.state is not TaskState.DONE:
                    self._stop(task, taken)
        return taken

    def due(self) -> list[tuple[str, NestedAnswer]]:
        """Answers to send now, each with its node."""
        asked = [(family.asker, family.answer()) for family in self.news]
        self.news.clear()
        return [(node, answer) for node, answer in asked if answer is not None]


class ParentLine:
    """The other end: what one run of a parent has said and heard, on its node."""

    __slots__ = ("accepted", "again", "index", "node", "run", "seen", "sent", "token", "words")

    def __init__(self, token: int, index: int, node: str, run: str) -> None:
        self.token = token
        self.index = index
        self.node = node
        self.run = run
        self.words: deque[Word] = deque()  # not accepted, in order
        self.accepted = 0
        self.sent = 0
        self.seen = 0  # events
        self.again = False  # something may have been lost: say once more what is not accepted

    def speak(self) -> tuple[Nested, bool]:
        """What to say now, and whether there is more. With nothing new it asks for events, and says which have come."""
        if self.again:
            self.sent = self.accepted
        words: list[Word] = []
        first, size, more = self.sent + 1, 0, False
        for word in list(self.words)[self.sent - self.accepted :]:
            size += sum(length for _, _, length in word.children)
            if words and size > limits.NESTED_ANSWER_BYTES:
                more = True
                break
            words.append(word)
        self.sent += len(words)
        said = Nested(self.token, self.index, self.node, self.run, first, tuple(words), self.seen, self.again)
        self.again = False
        return said, more

    def on_answer(self, answer: NestedAnswer) -> tuple[Event, ...]:
        """The session has answered: what is new in it. `seen` is the caller's to raise, once it has the events' values."""
        for _ in range(answer.accepted - self.accepted):
            self.words.popleft()
        self.accepted = max(self.accepted, answer.accepted)
        self.sent = max(self.sent, self.accepted)
        return answer.events[max(0, self.seen + 1 - answer.first) :] if answer.first <= self.seen + 1 else ()
