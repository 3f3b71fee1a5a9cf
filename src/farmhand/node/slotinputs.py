"""What the calls of a batch get besides their arguments: values of calls ahead of them, of the message, and of files beside it."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from farmhand.code.container import load_mapped
from farmhand.code.memory import view_of
from farmhand.code.values import Entry
from farmhand.errors import InputLost
from farmhand.model.messages import Feed, Work


class Feeding:
    """The inputs of one batch. Each call that takes a value gets a copy of its own."""

    def __init__(self, work: Work, entries: list[Any], files: dict[int, str]) -> None:
        self._feeds = {feed.index: feed for feed in work.feeds}
        self._count = work.count
        self._entries = entries
        self._files = files
        self._names = {ref.index: ref.name or ref.id for ref in work.blobs}
        self._wanted = {place for feed in work.feeds for place in feed.places if place < work.count}
        self._made: dict[int, Entry | BinaryIO] = {}
        self._opened = contextlib.ExitStack()

    def keep(self, index: int, entry: Entry | None, path: str = "") -> None:
        """A call has ended with this value. A large one is in a file, which may be gone before it is wanted here."""
        if index in self._wanted:
            self._made[index] = open(path, "rb") if entry is None else entry  # noqa: SIM115, PTH123 - closed with the batch

    def lacks(self, index: int) -> bool:
        """Whether a call ahead of this one, whose value it needs, has not given one."""
        feed = self._feeds.get(index)
        return feed is not None and any(place < self._count and place not in self._made for place in feed.places)

    def feed_of(self, index: int) -> Fed | None:
        """How a call gets its inputs; None when it has none."""
        feed = self._feeds.get(index)
        return Fed(self, feed) if feed is not None else None

    def value(self, place: int) -> Any:
        """An input. Raises `InputLost`, and what unpickling raises."""
        entry = self._made.get(place) if place < self._count else self._entries[place]
        if entry is None:
            return self._from_file(place)
        if type(entry) is tuple:
            return entry[0]
        if isinstance(entry, bytes):
            return pickle.loads(entry)
        return load_mapped(entry, writable=False)

    def _from_file(self, place: int) -> Any:
        with self._open(place) as file:
            return load_mapped(file, writable=False)

    def memory(self, place: int) -> memoryview:
        """Memory of an argument, as it was stored; what a call writes to it, it writes to pages of its own."""
        with self._open(place) as file:
            return view_of(file, writable=True)

    def _open(self, place: int) -> BinaryIO:
        try:
            return Path(self._files[place]).open("rb")
        except (LookupError, OSError):
            name = self._names.get(place, "an input")
            raise InputLost(f"{name} is gone from the farm; run what made it again, or scatter it again") from None

    def close(self) -> None:
        """The batch has ended."""
        self._opened.close()
        self._made.clear()


class Fed:
    """The inputs of one call."""

    def __init__(self, feeding: Feeding, feed: Feed) -> None:
        self._feeding = feeding
        self._places = feed.places
        self._buffers = feed.buffers

    def take(self, number: int) -> Any:
        """See `code.inputs.fed`."""
        return self._feeding.value(self._places[number])

    def buffers(self) -> Iterator[Any]:
        """The memory of its arguments."""
        if self._buffers:
            yield from map(self._feeding.memory, self._places[-self._buffers :])
