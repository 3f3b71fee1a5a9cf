"""What a task that submits and its session say to each other, by way of the task's node.

The node carries a task's word to the session and repeats it until it is answered; the session carries outcomes back and keeps
them until they are acknowledged. Both directions are numbered, so that nothing is taken twice or missed, whatever is repeated.
"""

from __future__ import annotations

import enum
from typing import Any, Final

import msgspec

from farmhand.model.messages import Codec, Profile
from farmhand.model.needs import Lane
from farmhand.model.outcome import BlobRef, Mark
from farmhand.model.retry import Retry


class ChildGroup(msgspec.Struct, array_like=True, frozen=True):
    """What children have in common."""

    profile: Profile
    lane: Lane
    retry: Retry


class Word(msgspec.Struct, array_like=True):
    """What a task says at a time. `entries` are packed calls, one for each of `children`, unopened until they run."""

    groups: tuple[ChildGroup, ...] = ()
    children: tuple[tuple[int, int, int], ...] = ()  # (number, position in `groups`, bytes)
    entries: tuple[msgspec.Raw, ...] = ()
    blobs: tuple[BlobRef, ...] = ()  # large arguments, by the child's number
    stops: tuple[int, ...] = ()  # children that are not wanted any more


class Nested(msgspec.Struct, array_like=True):
    """On `ses.<session>.sub.<node>`: words of the task at `index` of the attempt `token`, the first with number `first`.

    run: which run of that attempt it is; a message can be delivered twice. seen: the number of the last event that has come.
    again: nothing was heard for long; what was sent and not seen is to be sent again.
    """

    token: int
    index: int
    node: str
    run: str
    first: int
    words: tuple[Word, ...] = ()
    seen: int = 0
    again: bool = False


class What(enum.IntEnum):
    """What happened to a child."""

    RUNNING = 0
    SUCCEEDED = 1  # `entry` has the value, or `blob` says where it is
    ENDED = 2  # `mark` says how; with Kind.RAISED `entry` has the exception
    REFUSED = 3  # it never got anywhere: an error of ours, its class in `kind`


class Event(msgspec.Struct, array_like=True):
    """Something happened to the child of that number."""

    number: int
    what: What
    entry: Any = None
    blob: BlobRef | None = None
    mark: Mark | None = None
    node: str = ""
    slot: int = -1
    attempts: int = 0
    kind: str = ""
    text: str = ""


class NestedAnswer(msgspec.Struct, array_like=True):
    """On `ctl.<session>.sub.<node>`: words up to `accepted` are taken; these events follow one another from `first` on.

    gone: nobody waits for this run of the task.
    """

    token: int
    index: int
    run: str
    accepted: int
    first: int = 0
    events: tuple[Event, ...] = ()
    gone: bool = False


read_nested: Final = Codec(Nested)
read_nested_answer: Final = Codec(NestedAnswer)
