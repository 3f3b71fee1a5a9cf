"""Tasks that submit, in the simulated world: what `engine.children`, `node.children` and a slot do around `core.family`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from farmhand.core import session as core
from farmhand.core.family import Child, ParentLine
from farmhand.core.holding import Held
from farmhand.model import limits
from farmhand.model.messages import Profile
from farmhand.model.needs import Lane
from farmhand.model.nested import ChildGroup, Event, Nested, NestedAnswer, What, Word
from farmhand.model.outcome import Kind
from farmhand.model.retry import Retry
from farmhand.testing.calls import Call

if TYPE_CHECKING:
    from farmhand.testing.client import SimClient
    from farmhand.testing.node import SimNode
    from farmhand.testing.slot import SimSlot

_WORD_CALLS: Final = 3  # in one word, so that there are several

# ---- the session


def on_nested(client: SimClient, said: Nested) -> None:
    """A parent's words."""
    batch = client.core.batches.get(said.token)  # type: ignore[call-overload]
    before = client.core.counts.submitted
    family, taken = client.families.on_nested(said)
    if family is None:
        answer = NestedAnswer(said.token, said.index, said.run, 0, gone=True)
        _send(client, said.node, answer)
    else:
        client.open += client.core.counts.submitted - before
        for task in family.children.values():
            call: Call = task.cargo._entry
            if call.task is None:
                call.task = task
                client.brood.append(call)
                parent = batch.tasks[said.index]
                client.world.invariants.on_brood(client, _call(parent), call)
    _follow(client, taken)


def _call(task: Any) -> Call:
    call: Call = task.cargo._entry if isinstance(task.cargo, Child) else task.cargo
    return call


def lanes_of(said: Nested) -> Iterator[Lane]:
    """The lanes of its children."""
    return (group.lane for word in said.words for group in word.groups)


def _follow(client: SimClient, taken: Any) -> None:
    for child in taken.entries:
        call: Call = child._entry
        if call.task is not None:  # stopped, and not refused
            client.world.invariants.on_outcome(call, Kind.KILLED.name)
    client.carry_out(taken.effects)


def collect(client: SimClient) -> None:
    """Stop what parents leave."""
    if client.core.orphaned:
        _follow(client, client.families.collect())


def flush(client: SimClient) -> None:
    """Tell parents what is new."""
    for node, answer in client.families.due():
        _send(client, node, answer)


def _send(client: SimClient, node: str, answer: NestedAnswer) -> None:
    nodes = [client.world.node_named(node)]
    client.world.network.up(client, client.world.engine.broadcast, (nodes, "on_nested_answer", (answer,)), core=True)


def on_delivered(client: SimClient, effect: core.Delivered) -> None:
    """Tell the parents of those that were children."""
    for task, _ in effect.values:
        if isinstance(task.cargo, Child):
            client.families.settle(task.cargo, Event(task.cargo.ordinal, What.SUCCEEDED))


def on_ended(client: SimClient, effect: core.Ended) -> None:
    """The same for one that has not succeeded."""
    child = effect.task.cargo
    if isinstance(child, Child):
        client.families.settle(child, Event(child.ordinal, What.ENDED, mark=effect.mark))


def on_running(effect: core.Running) -> None:
    """A child runs."""
    if isinstance(effect.task.cargo, Child):
        effect.task.cargo.on_running(effect.node)


# ---- the node


class Line(ParentLine):
    """With what the parent waits for."""

    __slots__ = ("held", "missing", "over", "since", "slot")

    def __init__(self, node: SimNode, slot: SimSlot, held: Held, index: int, run: str) -> None:
        super().__init__(held.work.token, index, node.name, run)
        self.slot = slot
        self.held = held
        self.missing: set[int] = set()
        self.over = False
        self.since: float | None = None  # when nobody was there to listen


class Lines:
    """Those of one incarnation of a node."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._lines: dict[str, Line] = {}
        self._runs = 0

    def submit(self, slot: SimSlot, token: int, index: int, call: Call) -> None:
        """A call that runs submits its brood, and waits for it or not."""
        node, held = self._node, self._node.holder.by_slot.get(slot.number)
        assert call.brood is not None
        if held is None or held.work.token != token:
            return
        self._runs += 1
        line = Line(node, slot, held, index, f"{node.incarnation}-{self._runs}")
        self._lines[line.run] = line
        calls = call.brood()
        group = ChildGroup(Profile("child"), Lane(), Retry(1, 0.1))
        for at in range(0, len(calls), _WORD_CALLS):
            part = calls[at : at + _WORD_CALLS]
            children = tuple((at + i + 1, 0, child.size) for i, child in enumerate(part))
            line.words.append(Word((group,), children, tuple(part)))  # type: ignore[arg-type]
        line.missing = set(range(1, len(calls) + 1))
        node.world.log("%s submits %s", call, calls)
        self._speak(line)
        node.after(limits.NESTED_REPEAT_S, self._repeat, line)
        if not call.waits:
            slot.go_on(token, index)
            return
        node.lenders.add(held)
        node.carry_out(node.holder.on_waiting(slot.number, node.world.schedule.now))

    def _speak(self, line: Line) -> None:
        more = True
        client = self._node.world.client_named(line.held.work.session)
        while more:
            said, more = line.speak()
            engine = self._node.world.engine
            self._node.world.network.up(self._node, engine.broadcast, ([client], "on_nested", (said,)), core=True)

    def _repeat(self, line: Line) -> None:
        if line.over:
            return
        now, client = self._node.world.schedule.now, self._node.world.client_named(line.held.work.session)
        line.since = None if client.alive else (line.since if line.since is not None else now)
        if line.since is not None and now - line.since > limits.NESTED_ALONE_S:
            self._go_on(line)  # nobody will ever answer
            return
        line.again = True
        self._speak(line)
        self._node.after(limits.NESTED_REPEAT_S, self._repeat, line)

    def on_connected(self) -> None:
        """What was not answered is said again."""
        for line in self._lines.values():
            line.again = True
            self._speak(line)

    def on_answer(self, answer: NestedAnswer) -> None:
        """The session has answered."""
        line = self._lines.get(answer.run)
        if line is None:
            return
        if answer.gone:
            self._go_on(line)
            return
        events = line.on_answer(answer)
        line.seen += len(events)
        line.missing -= {event.number for event in events if event.what is not What.RUNNING}
        if line.missing:
            self._speak(line)
        else:
            self._go_on(line)

    def _go_on(self, line: Line) -> None:
        holder = self._node.holder
        self._close(line)
        if holder.by_slot.get(line.slot.number) is line.held and line.slot.number in holder.lending.waiting:
            holder.on_resumed(line.slot.number)
            line.slot.go_on(line.token, line.index)

    def _close(self, line: Line) -> None:
        line.over = True
        self._lines.pop(line.run, None)

    def end(self, held: Held, upto: int) -> None:
        """Every index below `upto` has ended."""
        for line in [line for line in self._lines.values() if line.held is held and line.index < upto]:
            self._close(line)
