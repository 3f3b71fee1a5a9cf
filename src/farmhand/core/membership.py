"""Who is alive: the steward's view of nodes and sessions, and what follows when one of them is gone.

What it decides: when a node counts as lost, when a session counts as ended, how many slots serve a lane. What it must never
do: take a late sign of life of a lost incarnation for a living node. An incarnation is declared lost once and for ever; the
node comes back as a new one.

A node's connection that closes is noticed at once (the engine says so) and gets NODE_GONE_S to come back; a frozen or
unplugged node is silent for NODE_SILENCE_S. A session's silence means little, because user code shares its process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import TypeVar

import msgspec

from farmhand.core.notes import forget_oldest
from farmhand.model import limits
from farmhand.model.ids import LaneId, kill_on_loss
from farmhand.model.messages import Holding, LaneState, LaneTable, NodeBeat, SessionBeat
from farmhand.model.needs import Lane

T = TypeVar("T")


class NodeLost(msgspec.Struct, frozen=True):
    """This node's work must be given to others."""

    node: str
    incarnation: str
    why: str


class SessionLost(msgspec.Struct, frozen=True):
    """Nobody waits for this session any more: withdraw its work. `kill` also stops what runs."""

    session: str
    kill: bool
    why: str


class Withdraw(msgspec.Struct, frozen=True):
    """A node holds work of a session that is over: tell it again, it may have missed that."""

    session: str


class TakeBack(msgspec.Struct, frozen=True):
    """A node holds attempts that were given up as lost: tell it."""

    tokens: tuple[int, ...]


class Disown(msgspec.Struct, frozen=True):
    """Tell this incarnation that it was declared lost."""

    incarnation: str


class LanesChanged(msgspec.Struct, frozen=True):
    """The slots of some lane changed, or it was long ago that they did: announce the table."""


Effect = NodeLost | SessionLost | Withdraw | TakeBack | Disown | LanesChanged


class _Node:
    __slots__ = ("beat", "gone_at", "seen_at")

    def __init__(self, beat: NodeBeat, now: float) -> None:
        self.beat = beat
        self.seen_at = now
        self.gone_at: float | None = None


class _Session:
    __slots__ = ("beat", "gone_at", "seen_at")

    def __init__(self, beat: SessionBeat, now: float) -> None:
        self.beat = beat
        self.seen_at = now
        self.gone_at: float | None = None


class Membership:
    """See the head of this file."""

    def __init__(self) -> None:
        self.nodes: dict[str, _Node] = {}
        self.sessions: dict[str, _Session] = {}
        self.lanes: dict[LaneId, LaneState] = {}
        self._lost: OrderedDict[str, None] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._over: OrderedDict[str, None] = OrderedDict()  # sessions whose running tasks are to be stopped
        self._given_back: OrderedDict[int, None] = OrderedDict()  # tokens
        self._unheard: dict[str, float] = {}  # sessions known only by the work that nodes hold: since when
        self._announced_at = 0.0

    # ---- nodes

    def on_node_beat(self, beat: NodeBeat, now: float) -> list[Effect]:
        """A node is alive."""
        if beat.incarnation in self._lost:
            return [Disown(beat.incarnation)]
        known = self.nodes.get(beat.node)
        effects = self._review(beat, now)
        if known is not None and known.beat.incarnation != beat.incarnation:
            effects.append(self._lose(known.beat, "it was replaced by a new incarnation"))
            known = None
        if known is None:
            self.nodes[beat.node] = _Node(beat, now)
            return effects + self._recount()
        before, known.beat = known.beat, beat
        known.seen_at, known.gone_at = now, None
        if (before.slots, before.capabilities, before.leaving) != (beat.slots, beat.capabilities, beat.leaving):
            effects += self._recount()
        return effects

    def _review(self, beat: NodeBeat, now: float) -> list[Effect]:
        """What a node should not hold any more. It may have missed that, or have slept for longer than a steward lives."""
        effects: list[Effect] = []
        for session in dict.fromkeys(holding.session for holding in beat.holding):
            if session in self._over:
                effects.append(Withdraw(session))
            elif session not in self.sessions:
                self._unheard.setdefault(session, now)
        if tokens := tuple(holding.token for holding in beat.holding if holding.token in self._given_back):
            effects.append(TakeBack(tokens))
        return effects

    def on_given_back(self, token: int) -> None:
        """An attempt was reported as lost, and its message was removed."""
        _remember(self._given_back, token)

    def on_disconnected(self, name: str, now: float) -> bool:
        """The engine says that the connection of this name has closed. False for a node's that nobody here knows (any more)."""
        kind, _, rest = name.partition(":")
        if kind == "node":
            node_id, _, incarnation = rest.partition(":")
            node = self.nodes.get(node_id)
            if node is None or node.beat.incarnation != incarnation:
                return False
            node.gone_at = now
        elif kind == "session" and (session := self.sessions.get(rest)):
            session.gone_at = now
        return True

    def on_node_bye(self, node: str, incarnation: str) -> list[Effect]:
        """A node has left in good order. What it still held by mistake is swept up."""
        known = self.nodes.get(node)
        if known is None or known.beat.incarnation != incarnation:
            return []
        return [self._lose(known.beat, "it has left"), *self._recount()]

    def _lose(self, beat: NodeBeat, why: str) -> NodeLost:
        self.nodes.pop(beat.node, None)
        _remember(self._lost, beat.incarnation)
        return NodeLost(beat.node, beat.incarnation, why)

    # ---- sessions

    def on_session_beat(self, beat: SessionBeat, now: float) -> list[Effect]:
        """A session is alive, or says that it ends."""
        if beat.ended:
            return self.on_session_ended(beat.session)
        if beat.session in self._ended:
            return []  # overtaken by its own last word
        self._over.pop(beat.session, None)  # it was taken for dead
        self._unheard.pop(beat.session, None)
        known = self.sessions.get(beat.session)
        if known is None:
            self.sessions[beat.session] = _Session(beat, now)
        else:
            known.beat, known.seen_at, known.gone_at = beat, now, None
        return []

    def on_session_ended(self, session: str) -> list[Effect]:
        """A session's last word, or the removal of a named one."""
        self.sessions.pop(session, None)
        _remember(self._ended, session)
        return [self._end(session, kill=True, why="it has ended")]

    def on_census(self, stored: Iterable[str], connected: Collection[str], blind_at: float) -> list[Effect]:
        """After an outage that ended at `blind_at`: which sessions have something in the engine, and which are connected.

        Who is not connected and has not been heard of since is over, be it known here or only by what it has left there
        or on a node.
        """
        effects: list[Effect] = []
        held = (holding.session for node in self.nodes.values() for holding in node.beat.holding)
        for name in dict.fromkeys((*stored, *held, *self.sessions)):
            known = self.sessions.get(name)
            if name in connected or (known is not None and known.seen_at > blind_at):
                continue
            self.sessions.pop(name, None)
            effects.append(self._end(name, kill=kill_on_loss(name), why="it did not come back after an outage"))
        return effects

    def _end(self, session: str, *, kill: bool, why: str) -> SessionLost:
        if kill:
            _remember(self._over, session)
        return SessionLost(session, kill=kill, why=why)

    # ---- time

    def on_tick(self, now: float) -> list[Effect]:
        """Declare lost what has been gone or silent for too long."""
        effects: list[Effect] = []
        for node in list(self.nodes.values()):
            if node.gone_at is not None and now - node.gone_at >= limits.NODE_GONE_S:
                effects.append(self._lose(node.beat, "its connection closed"))
            elif now - node.seen_at >= limits.NODE_SILENCE_S:
                effects.append(self._lose(node.beat, f"silent for {limits.NODE_SILENCE_S:g} s"))
        if effects:
            effects += self._recount()
        elif now - self._announced_at >= limits.ANNOUNCE_S:
            effects.append(LanesChanged())  # who missed the last one must not wait for the next change
        if effects:
            self._announced_at = now
        for name, session in list(self.sessions.items()):
            gone = session.gone_at is not None and now - session.gone_at >= limits.SESSION_GONE_S
            if gone or now - session.seen_at >= limits.SESSION_SILENCE_S:
                del self.sessions[name]
                kill = session.beat.on_client_loss != "finish"
                effects.append(self._end(name, kill=kill, why="its connection closed" if gone else "silent"))
        return effects + self._give_up_unheard(now)

    def _give_up_unheard(self, now: float) -> list[Effect]:
        """A session that lives says so twice a second."""
        gone = [name for name, since in self._unheard.items() if now - since >= limits.SESSION_SILENCE_S]
        for name in gone:
            del self._unheard[name]
        return [self._end(name, kill=kill_on_loss(name), why="only its work is there") for name in gone]

    def on_blind(self, now: float, slack: float = 0.0) -> None:
        """The steward itself was cut off: nobody's silence meanwhile means anything, nor a node's in the `slack` s that follow."""
        self._unheard.clear()
        for node in self.nodes.values():
            node.seen_at, node.gone_at = max(node.seen_at, now + slack), None  # slack that was given before stays
        for session in self.sessions.values():
            session.seen_at, session.gone_at = now, None

    # ---- lanes

    def on_lane(self, lane: Lane) -> LaneState:
        """Somebody wants to submit to this lane."""
        if lane.id not in self.lanes:
            self.lanes[lane.id] = LaneState(lane, lane.id, 0)
            self._recount()
        return self.lanes[lane.id]

    def _recount(self) -> list[Effect]:
        for lane_id, state in self.lanes.items():
            slots, lacking = 0, []
            for node in self.nodes.values():
                beat = node.beat
                if missing := state.lane.lacks(beat.capabilities, (beat.python,)):
                    lacking.append(f"{beat.name} {' and '.join(missing)}")
                elif not beat.leaving:
                    slots += beat.slots // max(1, round(state.lane.cpus))
            self.lanes[lane_id] = LaneState(state.lane, lane_id, slots, () if slots else tuple(lacking))
        return [LanesChanged()]

    def table(self) -> LaneTable:
        """All lanes with the slots that serve them."""
        return LaneTable(tuple(self.lanes.values()), self.pythons())

    def pythons(self) -> tuple[str, ...]:
        """Minor versions of Python that connected nodes offer."""
        return tuple(sorted({node.beat.python for node in self.nodes.values()}))

    def serving(self, lane: LaneId) -> list[str]:
        """The nodes that may hold work of a lane."""
        state = self.lanes.get(lane)
        if state is None:
            return []
        return [
            n for n, node in self.nodes.items() if not state.lane.lacks(node.beat.capabilities, (node.beat.python,))
        ]


def _remember(names: OrderedDict[T, None], name: T) -> None:
    """Add a name; the oldest are forgotten."""
    names[name] = None
    forget_oldest(names)


def orphans(delivered: Iterable[int], holdings: Iterable[Holding], lane: str) -> list[int]:
    """Stream sequences of a lane that were delivered, are not acknowledged, and that no living node holds."""
    held = {holding.sequence for holding in holdings if holding.lane == lane}
    return [sequence for sequence in delivered if sequence not in held]
