"""Exceptions on their way from a slot to the client.

An exception is never lost. What can be pickled arrives as it was, with its causes, contexts and notes, and with the
remote traceback both as a note and as its cause, as `concurrent.futures` does. What cannot arrives as `TaskFailed`,
which names the original type, says what it said, and why it could not be rebuilt. Unpacking answers anything with an
exception and raises none.
"""

from __future__ import annotations

import contextlib
import pickle
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from farmhand.code.limits import CHAIN_MAX, TRACEBACK_CHARS_MAX
from farmhand.code.values import PROTOCOL, type_name
from farmhand.errors import TaskFailed

_CALLER: Final = str(Path(__file__).with_name("load.py"))
_NONE: Final = -1


class _Link(NamedTuple):
    """One exception of a chain. Only strings, numbers and bytes, so that reading it runs no code."""

    type: str
    text: str
    pickled: bytes  # empty when it could not be pickled
    why: str  # then the reason
    cause: int  # index in the chain, or -1
    context: int
    suppress: bool
    notes: list[str]


def pack_exception(exc: BaseException, note: str = "") -> bytes:
    """An exception with its chain, notes and traceback as bytes. `note` says where it was raised; never raises."""
    try:
        text = _traceback_text(exc)
    except BaseException as error:  # noqa: BLE001 - a traceback may hold anything
        text = f"(the traceback could not be formatted: {say_exception(error)})"
    links = [tuple(link) for link in _chain(exc)]
    return pickle.dumps((note, text, links), PROTOCOL)


def unpack_exception(data: bytes | bytearray | memoryview) -> BaseException:
    """The exception that `pack_exception` packed, or `TaskFailed` in its place."""
    try:
        note, text, raw = pickle.loads(data)
        links = [_Link(*link) for link in raw]
        made = [_rebuild(link) for link in links]
        for link, exc in zip(links, made, strict=True):
            exc.__cause__ = made[link.cause] if link.cause != _NONE else None
            exc.__context__ = made[link.context] if link.context != _NONE else None
            exc.__suppress_context__ = link.suppress
        return _attach(made[0], str(note), str(text))
    except BaseException as error:  # noqa: BLE001 - whatever the bytes are, the future must resolve
        return TaskFailed(f"the task raised, but what it raised could not be read here: {say_exception(error)}")


def _traceback_text(exc: BaseException) -> str:
    original = exc.__traceback__
    exc.__traceback__ = _below_own_frames(original)
    try:
        text = "".join(traceback.format_exception(exc))
    finally:
        exc.__traceback__ = original
    if len(text) > TRACEBACK_CHARS_MAX:
        text = "...\n" + text[-TRACEBACK_CHARS_MAX:]
    return text


def _below_own_frames(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame of the task on; all of it if the task had not begun."""
    inner = frames
    while inner is not None and inner.tb_frame.f_code.co_filename != _CALLER:
        inner = inner.tb_next
    while inner is not None and inner.tb_frame.f_code.co_filename == _CALLER:
        inner = inner.tb_next
    return inner if inner is not None else frames


def _chain(exc: BaseException) -> list[_Link]:
    found = [exc]
    index = {id(exc): 0}
    for each in found:  # grows meanwhile
        for other in (each.__cause__, each.__context__):
            if other is not None and id(other) not in index and len(found) < CHAIN_MAX:
                index[id(other)] = len(found)
                found.append(other)
    return [_link(each, index) for each in found]


def _link(exc: BaseException, index: dict[int, int]) -> _Link:
    pickled, why = b"", ""
    try:
        from farmhand.code.pickler import pickle_value

        pickled = pickle_value(exc)[0]
    except BaseException as error:  # noqa: BLE001 - the exception is reported in words instead
        why = f"it cannot be pickled: {say_exception(error)}"
    notes = getattr(exc, "__notes__", None)
    return _Link(
        type_name(type(exc)),
        _text(exc),
        pickled,
        why,
        index.get(id(exc.__cause__), _NONE),
        index.get(id(exc.__context__), _NONE),
        exc.__suppress_context__,
        [note for note in notes if type(note) is str] if isinstance(notes, list) else [],
    )


def _rebuild(link: _Link) -> BaseException:
    why = link.why
    if link.pickled:
        try:
            exc = pickle.loads(link.pickled)
            if isinstance(exc, BaseException):
                return exc
            why = f"unpickling it gives no exception but an object of type {type_name(type(exc))}"
        except BaseException as error:  # noqa: BLE001 - a constructor may do anything
            why = f"it cannot be unpickled here: {say_exception(error)}"
    failed = TaskFailed(f"{link.type}: {link.text} (shown in words, because {why})")
    for note in link.notes:
        failed.add_note(note)
    return failed


def _attach(exc: BaseException, note: str, text: str) -> BaseException:
    # Imported here: it brings multiprocessing along, and most tasks do not raise.
    from concurrent.futures import process

    remote_traceback: Any = process._RemoteTraceback
    remote = remote_traceback(f'\n"""\n{text}"""')
    # What the task gave as cause stays reachable one step further.
    remote.__cause__ = exc.__cause__
    exc.__cause__ = remote
    with contextlib.suppress(Exception):  # an exception class may refuse attributes; the cause has it all
        exc.add_note("\n".join(part for part in (note, text.rstrip()) if part))
    return exc


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as error:  # noqa: BLE001 - user code
        return f"(its text could not be had: {type_name(type(error))})"


def say_exception(error: BaseException) -> str:
    """Its type and what it says. Never raises."""
    return f"{type_name(type(error))}: {_text(error)}"
