"""Values that tasks of a named session need of one another: from their records into the messages that need them, never unpickled."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from farmhand import errors
from farmhand.core.supply import Given, Use
from farmhand.core.tasks import Batch, Task
from farmhand.engine import blobs, streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.stored import Publisher
from farmhand.model import limits, messages
from farmhand.model.messages import Feed
from farmhand.model.named import Block, Place, places_of, read_settled
from farmhand.model.outcome import BlobRef, Kind

log = logging.getLogger("farmhand.steward")

T = TypeVar("T")

cut: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
NONE: Final = msgspec.Raw(msgspec.msgpack.encode(None))
_RECORDS_KEPT: Final = 16  # neighbours are asked for one after another


class Value(NamedTuple):
    """Packed, or beside the message."""

    entry: msgspec.Raw
    blob: BlobRef | None = None


def is_sound(block: Block, entries: Sequence[msgspec.Raw]) -> bool:
    """Whether a block has what its header says, and no call waits for itself."""
    elsewhere = {given.place for given in block.inputs}
    return block.count <= len(entries) and all(
        0 <= feed.index < block.count and not feed.buffers
        and all(0 <= place < feed.index or block.count <= place < len(entries) or place in elsewhere for place in feed.places)
        for feed in block.feeds
    )  # fmt: skip


class _Record:
    """What a stored record says of each of its tasks."""

    def __init__(self, data: bytes | memoryview) -> None:
        header, body = messages.split(data)
        settled = read_settled(header)
        entries = cut(body) if len(body) else []
        marks = {mark.index: mark.kind for mark in settled.marks}
        refs = {ref.index: ref for ref in settled.blobs}
        self.found: dict[Place, tuple[Kind, Value]] = {}
        position = 0
        for at, place in enumerate(places_of(settled.runs)):
            kind = marks.get(at, Kind.SUCCEEDED)
            has_entry = kind in (Kind.SUCCEEDED, Kind.RAISED)
            entry = entries[position] if has_entry and position < len(entries) else NONE
            position += has_entry
            self.found[place] = kind, Value(entry, refs.get(at))


class Freight:
    """What a message carries for the calls in it that have inputs."""

    def __init__(self, batch: Batch, tasks: Sequence[Task], found: dict[Place, Value]) -> None:
        self.feeds: list[Feed] = []
        self.entries: list[msgspec.Raw] = []
        self.refs: list[BlobRef] = []
        self._count = batch.count
        self._found = found
        self._places: dict[Any, int] = {task.cargo.place: index for index, task in enumerate(tasks)}
        for index, task in enumerate(tasks):
            inputs = task.cargo.inputs
            if inputs and all(self._has(given) for given in inputs):  # else it was withdrawn meanwhile
                self.feeds.append(Feed(index, tuple(map(self._place, inputs))))

    def _has(self, given: Use | Given) -> bool:
        return isinstance(given, Given) or given.place in self._places or given.place in self._found

    def _place(self, given: Use | Given) -> int:
        key: Any
        if isinstance(given, Use):
            key, name = given.place, f"the result of {given.name or 'task'!r}"
        else:
            key, name = (given.blob.id, given.blob.name) if given.blob is not None else (id(given.entry), "")
        place = self._places.get(key)
        if place is not None:
            return place
        return self._add(key, self._found[key] if isinstance(given, Use) else Value(given.entry, given.blob), name)

    def _add(self, key: Any, value: Value, name: str) -> int:
        place = self._places[key] = self._count + len(self.entries)
        if value.blob is not None:
            self.refs.append(msgspec.structs.replace(value.blob, index=place, name=name))
        self.entries.append(NONE if value.blob is not None else value.entry)
        return place


class Supplies:
    """The values of one session. `record_of`: a coroutine that waits until the record of a place is known."""

    def __init__(self, connection: Connection, publisher: Publisher, session: str,
                 record_of: Callable[[Place], Awaitable[int]]) -> None:  # fmt: skip
        self._connection = connection
        self._publisher = publisher
        self._session = session
        self._record_of = record_of
        self._kept: OrderedDict[Place, Value] = OrderedDict()  # used last goes last
        self._bytes = 0
        self._beside: dict[Place, BlobRef] = {}  # that were moved beside the messages
        self._records: OrderedDict[int, _Record] = OrderedDict()

    def keep(self, place: Place, entry: msgspec.Raw, blob: BlobRef | None) -> None:
        """A value that somebody waits for."""
        if place in self._kept:
            return
        self._kept[place] = Value(NONE if blob is not None else entry.copy(), blob)
        self._bytes += len(self._kept[place].entry)
        while self._bytes > limits.SUPPLIES_KEPT_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1].entry)

    def at_hand(self, batch: Batch, tasks: Sequence[Task]) -> Freight | None:
        """What a message needs; None when something of it is to be read or to be moved first."""
        found: dict[Place, Value] = {}
        for use in _uses(tasks):
            value = self._kept.get(use.place)
            if value is None:
                return None
            found[use.place] = value
        if sum(len(value.entry) for value in found.values()) > limits.INPUT_BYTES_INLINE_MAX:
            return None
        return Freight(batch, tasks, found)

    async def collect(self, batch: Batch, tasks: Sequence[Task]) -> Freight:
        """The same, whatever it takes. Raises `SessionUnknown` when the session was removed."""
        found: dict[Place, Value] = {}
        size = 0
        for use in _uses(tasks, batch):
            value = await self._patiently(functools.partial(self._value, use.place))
            size += len(value.entry)
            if size > limits.INPUT_BYTES_INLINE_MAX:
                value = await self._patiently(functools.partial(self._move, use.place, value))
            found[use.place] = value
        return Freight(batch, tasks, found)

    async def _value(self, place: Place) -> Value:
        kept = self._kept.get(place)
        if kept is not None:
            self._kept.move_to_end(place)
            return kept
        sequence = await self._record_of(place)
        known = self._records.get(sequence)
        if known is None:
            message = await streams.message_at(self._connection, subjects.SESSION, sequence)
            if message is None:
                raise errors.SessionUnknown("this session was removed")
            known = self._remember(sequence, message.data)
        return known.found[place][1]

    async def _move(self, place: Place, value: Value) -> Value:
        """Put a packed value beside the messages: a call may join thousands of them."""
        data = msgspec.msgpack.decode(value.entry)
        if not isinstance(data, bytes):
            return value
        blob = self._beside.get(place)
        if blob is None:
            name = f"v{place[0]}-{place[1]}"
            writer = blobs.Writer(self._publisher, self._session, name, again=True)
            await writer.write(data)
            await writer.finish()
            blob = self._beside[place] = BlobRef(0, name, len(data))
        return Value(NONE, blob)

    async def seek(self, place: Place, after: int) -> tuple[int, Kind]:
        """The sequence of the record with a task's outcome, 0 when there is none, and how it ended. One at a time is to ask."""
        if (known := self._records.get(after)) is not None and place in known.found:
            sequence, (kind, value) = after, known.found[place]
        else:
            sequence, kind, value = await self._patiently(functools.partial(self._seek, place, after))
        if kind is Kind.SUCCEEDED:
            self.keep(place, *value)
        return sequence, kind

    async def _seek(self, place: Place, after: int) -> tuple[int, Kind, Value]:
        subject = subjects.outcomes(self._session)
        for first in (after, place[0] + 1):  # who submitted may have been mistaken
            at = first
            while message := await streams.message_at(self._connection, subjects.SESSION, at, subject):
                record = self._remember(message.sequence, message.data)
                if place in record.found:
                    return message.sequence, *record.found[place]
                at = message.sequence + 1
        return 0, Kind.LOST, Value(NONE)

    def _remember(self, sequence: int, data: bytes | memoryview) -> _Record:
        record = self._records[sequence] = _Record(data)
        while len(self._records) > _RECORDS_KEPT:
            self._records.popitem(last=False)
        return record

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try it until the engine has answered."""
        while True:
            try:
                return await attempt()
            except errors.SessionUnknown:
                raise
            except (errors.EngineError, TimeoutError) as error:
                log.warning("an input in session %s is not there yet: %s", self._session, error)
            await asyncio.sleep(limits.STORE_RETRY_S)
            await self._connection.wait_connected()


def _uses(tasks: Sequence[Task], batch: Batch | None = None) -> Iterable[Use]:
    """The inputs of a message that it does not make itself; of a `batch`, without those of tasks that were withdrawn."""
    ahead = {task.cargo.place for task in tasks}
    seen: set[Place] = set()
    for index, task in enumerate(tasks):
        if batch is not None and batch.tasks[index] is None:
            continue
        for given in task.cargo.inputs:
            if isinstance(given, Use) and given.place not in ahead and given.place not in seen:
                seen.add(given.place)
                yield given
