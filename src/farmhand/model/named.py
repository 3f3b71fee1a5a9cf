"""What the engine stores of a named session: one that outlives its clients.

Its tasks stand in blocks on `bak.<session>.<lane>`, its outcomes in records on `out.<session>`; one stream has both, so their
sequences tell what came first. A task's name for every part is its place: its block's sequence, and its index in it.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from farmhand.model import limits
from farmhand.model.messages import Codec, Feed, Profile, Run
from farmhand.model.needs import Lane
from farmhand.model.outcome import BlobRef, Mark
from farmhand.model.retry import Retry

Place = tuple[int, int]  # a block's sequence in the stream, an index in the block

HEADER: Final = "Farmhand-Block"  # of a block's message; see `heading`


class About(msgspec.Struct):
    """On `about.<name>`: the session of that name. Removing it and making it anew gives another `session`."""

    protocol: int
    version: str
    name: str
    session: str
    created: float  # seconds since 1970
    keep: float = limits.SESSION_KEEP_S  # after the last thing that happened in it
    stored_max: int = limits.SESSION_BYTES_MAX
    result_max: int = limits.SESSION_RESULT_BYTES_MAX


class Input(msgspec.Struct, array_like=True, frozen=True):
    """In a block's `feeds`, `place` stands for the value of the session's task at `index` of `block`.

    after: no record that is stored before this sequence has its outcome. name: for people.
    """

    place: int
    block: int
    index: int
    after: int = 0
    name: str = ""


class Block(msgspec.Struct, array_like=True):
    """Header on `bak.<session>.<lane>`: tasks that were submitted together. The body is as in a `Work`.

    feeds: as in a `Work`, with `inputs` for what another block's task gives; what is in a call's own block may also be a place below
    `count`. counted: so many bytes of `blobs` are in an earlier block of the session too.
    """

    protocol: int
    session: str
    count: int
    profile: Profile
    lane: Lane
    retry: Retry
    blobs: tuple[BlobRef, ...] = ()  # large arguments, by index, and from `count` on values for `feeds`
    after: int = (
        -1
    )  # the newest block that its client knew of when it stored this first; -1 when nobody stores it again
    feeds: tuple[Feed, ...] = ()
    inputs: tuple[Input, ...] = ()
    counted: int = 0


class Failed(msgspec.Struct, array_like=True):
    """Header on `fail.<session>`: a task that ended badly, ready to run again. The body is as in a `Work`, with one entry.

    `block` is what it would be stored as. `lacking` says why it cannot run again, and is empty when it can.
    """

    protocol: int
    session: str
    name: str  # of the named session, or empty
    at: float  # seconds since 1970
    mark: Mark
    node: str
    slot: int
    attempts: int
    block: Block
    lacking: str = ""


class Tried(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How often a task has failed that runs again: up to the attempt whose work was at `sequence`."""

    block: int
    index: int
    sequence: int
    attempts: int
    failures: int
    deaths: int
    losses: int


class Settled(msgspec.Struct, array_like=True):
    """Header of a record on `out.<session>`: outcomes of `runs`' tasks, in that order, by which a mark's index counts.

    A task without a mark succeeded. The body is as in a `Report`. `causes`: the task at that position did not run, because the
    task at that place, which it has as an input near or far, has ended without a value. `low` and what follows say where a
    caretaker that comes next may begin to read: the tasks of every block below that sequence are settled, and counted here.
    """

    protocol: int
    runs: tuple[Run, ...]
    marks: tuple[Mark, ...] = ()
    node: str = ""
    slot: int = -1
    blobs: tuple[BlobRef, ...] = ()
    attempts: tuple[int, ...] = ()  # of the marked tasks, in the marks' order
    low: int = 1
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    bytes_below: int = 0  # of those blocks, with their records and large values
    seconds: float = 0.0  # of all calls so far
    cpu: float = 0.0
    tried: tuple[Tried, ...] = ()  # tasks that have no outcome yet
    causes: tuple[tuple[int, int, int], ...] = ()  # (position, block, index)


class SessionState(msgspec.Struct):
    """On `ses.<session>.state` when it has changed, and in the answers about sessions."""

    name: str
    session: str
    submitted: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    running: int = 0
    stored: int = 0  # bytes
    stored_max: int = 0
    result_max: int = 0
    created: float = 0.0
    touched: float = 0.0  # when something last happened in it, seconds since 1970
    keep: float = 0.0
    ready: bool = True  # False while its caretaker still reads what it left

    @property
    def open(self) -> int:
        """Tasks without an outcome."""
        return self.submitted - self.done - self.failed - self.cancelled


class SessionRequest(msgspec.Struct):
    """To `api.session`: this session, made when `create` says so and it is not there."""

    protocol: int
    version: str
    name: str
    create: bool = False
    keep: float | None = None
    stored_max: int | None = None
    result_max: int | None = None


class StopRequest(msgspec.Struct):
    """To `api.session-stop`: withdraw these tasks; `kill` also stops those that run. Answered with what was ended at once."""

    session: str
    places: tuple[Place, ...]
    kill: bool = False


class FailedRequest(msgspec.Struct):
    """To `api.failed`, `api.failed-retry`, `api.failed-forget`: tasks of these sessions or names, or with these ids; all when empty."""

    wanted: tuple[str, ...] = ()


def heading(tasks: int, name: str) -> str:
    """A block's `HEADER`, by which its place in the order is known without its body."""
    return f"{tasks} {urllib.parse.quote(name)}"


def heading_of(said: str) -> tuple[int, str]:
    """How many tasks a block has, and their name. Raises `ValueError`."""
    tasks, _, name = said.partition(" ")
    return int(tasks), urllib.parse.unquote(name)


def runs_of(places: Iterable[Place]) -> tuple[Run, ...]:
    """Places in short: neighbours as one."""
    found: list[Run] = []
    block = first = end = -1
    for at, index in places:
        if at == block and index == end:
            end += 1
            continue
        if end > first:
            found.append((block, first, end - first))
        block, first, end = at, index, index + 1
    if end > first:
        found.append((block, first, end - first))
    return tuple(found)


def places_of(runs: Iterable[Run]) -> Iterator[Place]:
    """The places that `runs_of` shortened."""
    for block, first, count in runs:
        for index in range(first, first + count):
            yield block, index


read_about: Final = Codec(About)
read_block: Final = Codec(Block)
read_failed: Final = Codec(Failed)
read_failed_request: Final = Codec(FailedRequest)
read_settled: Final = Codec(Settled)
read_state: Final = Codec(SessionState)
read_session_request: Final = Codec(SessionRequest)
read_stop_request: Final = Codec(StopRequest)
