"""Arguments and results as bytes.

An entry is one call's arguments, or one result. A tuple holds plain values as they are, to be packed in bulk with many
others; bytes are an entry that had to be pickled by itself. A message's entries are one MessagePack array, so that who must
not unpickle, the steward, still can take some of them out of one message and put them into another.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from farmhand.code.limits import (
    PLAIN_ARGS_MAX,
    PLAIN_CHARS_MAX,
    PLAIN_INT_MAX,
    SIMPLE_ITEMS_MAX,
    SIZED_ITEMS_MAX,
)
from farmhand.errors import ResultUndecodable

Entry = tuple[Any, ...] | bytes
Buffer = bytes | bytearray | memoryview
PROTOCOL: Final = 5

_SMALL: Final = frozenset({float, bool, type(None)})
_LEAVES: Final = frozenset({int, float, bool, type(None), str, bytes, complex})
_CONTAINERS: Final = frozenset({list, tuple, set, frozenset, dict})


def is_plain(values: tuple[Any, ...]) -> bool:
    """Whether all are small immutable atoms, which may be pickled later and in bulk."""
    for value in values:
        kind = type(value)
        if kind is int:
            if not -PLAIN_INT_MAX < value < PLAIN_INT_MAX:
                return False
        elif kind is str or kind is bytes:
            if len(value) > PLAIN_CHARS_MAX or not (kind is bytes or value.isascii() or _is_utf8(value)):
                return False
        elif kind not in _SMALL:
            return False
    return len(values) <= PLAIN_ARGS_MAX


def _is_utf8(text: str) -> bool:
    """Whether it has no half of a surrogate pair, as a file's name may."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_simple(value: Any) -> bool:
    """Whether it is made of built-in atoms and containers alone, looking at a limited number of items."""
    waiting = [value]
    budget = SIMPLE_ITEMS_MAX
    while waiting:
        found = waiting.pop()
        kind = type(found)
        if kind in _LEAVES:
            continue
        if kind not in _CONTAINERS:
            return False
        budget -= len(found)
        if budget < 0:
            return False
        waiting.extend(found)
        if kind is dict:
            waiting.extend(found.values())
    return True


def estimate_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """About how many bytes the arguments hold: buffers and strings among them and one level deep."""
    total = 0
    for value in (*args, *kwargs.values()):
        total += _size_of(value)
        kind = type(value)
        if kind in _CONTAINERS:
            items: Iterable[Any] = value.values() if kind is dict else value
            for looked_at, item in enumerate(items):
                if looked_at >= SIZED_ITEMS_MAX:
                    total += total // SIZED_ITEMS_MAX * (len(value) - SIZED_ITEMS_MAX)
                    break
                total += _size_of(item)
    return total


def _size_of(value: Any) -> int:
    kind = type(value)
    if kind is int or kind in _SMALL or kind in _CONTAINERS:
        return 8
    if kind is bytes or kind is str or kind is bytearray:
        return len(value)
    try:
        size = value.nbytes
    except Exception:  # noqa: BLE001 - an object may answer attributes with code of its own
        return 8
    return size if type(size) is int else 8


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[tuple[Any, ...] | bytes | None]).decode


def pack_values(entries: Sequence[Entry | None]) -> bytes:
    """The entries of one message as its body; None for one whose value travels beside it."""
    return _encode(entries)


def unpack_values(body: Buffer) -> list[Any]:
    """The entries of one message. Raises `msgspec.MsgspecError`, `ValueError`."""
    return _decode(body)


class Sink:
    """The file that a pickler writes to: hands on each piece, and large buffers as they are.

    A piece that is not `bytes` is a view of a value's own memory: it must be sent or copied before `write` returns.
    """

    __slots__ = ("_write",)

    def __init__(self, write: Callable[[Buffer], object]) -> None:
        self._write = write

    def write(self, data: Any) -> int:
        """Called by the pickler with frames of about 64 kB, and with larger buffers by themselves."""
        if type(data) is pickle.PickleBuffer:
            data = data.raw()
        self._write(data)
        return memoryview(data).nbytes


def write_value(
    value: Any,
    write: Callable[[Buffer], object],
    inputs: list[Any] | None = None,
    take: Callable[[pickle.PickleBuffer], bool] | None = None,
) -> set[str]:
    """Pickles a value piece by piece and holds no second copy of it. Returns the user's modules that it needs."""
    from farmhand.code.pickler import CodePickler

    pickler = CodePickler(Sink(write), inputs=inputs, buffer_callback=take)
    pickler.dump(value)
    return pickler.modules


def load_from(file: Any) -> Any:
    """The value that `write_value` wrote. With `readinto`, large buffers are read straight into place.

    The file needs `read(n)`, `readline()` and should have `readinto(buffer)`.
    """
    return pickle.load(file)


def pack_result(value: Any) -> Entry:
    """A task's value as an entry. What pickling raises is raised, with a note that names the type."""
    return pack_value(value)[0]


def pack_value(value: Any) -> tuple[Entry, set[str]]:
    """The same with the user's modules that the entry needs."""
    single = (value,)
    if is_plain(single):
        return single, set()
    if is_simple(value):
        return pickle.dumps(value, PROTOCOL), set()
    from farmhand.code.pickler import pickle_value

    try:
        return pickle_value(value)
    except Exception as error:
        note_result(error, value)
        raise


def note_result(error: Exception, value: Any) -> None:
    """Says in the error which type it was that could not be pickled."""
    error.add_note(f"The task's result, of type {type_name(type(value))}, cannot be pickled.")


def unpack_result(entry: Entry | bytearray | memoryview) -> Any:
    """The value of a result's entry.

    Raises:
        ResultUndecodable: it cannot be unpickled here; the cause says why.
    """
    if type(entry) is tuple:
        return entry[0]
    try:
        return pickle.loads(entry)  # type: ignore[arg-type]
    except Exception as error:
        raise ResultUndecodable(
            f"the task succeeded, but its result cannot be unpickled here: {type_name(type(error))}: {error}"
        ) from error


def type_name(kind: type) -> str:
    """A type's name for people, with its module unless that is obvious."""
    module = kind.__module__
    return kind.__qualname__ if module in {"builtins", "__main__"} else f"{module}.{kind.__qualname__}"
