"""From how a task ended to the exception of its future."""

from __future__ import annotations

import contextlib
from typing import Final, NamedTuple

from farmhand import errors
from farmhand.code.failure import unpack_exception
from farmhand.model.outcome import Kind, Mark

_ERRORS: Final[dict[Kind, type[errors.TaskError]]] = {
    Kind.CRASHED: errors.TaskCrashed,
    Kind.TIMED_OUT: errors.TaskTimedOut,
    Kind.OUT_OF_MEMORY: errors.TaskOutOfMemory,
    Kind.KILLED: errors.TaskKilled,
    Kind.LOST: errors.TaskCrashed,
    Kind.REFUSED: errors.TaskRefused,
    Kind.INITIALIZER: errors.InitializerFailed,
    Kind.ENVIRONMENT: errors.EnvironmentFailed,
}


class End(NamedTuple):
    """How and where a task ended, and what its error says of it."""

    name: str
    timeout: float
    mark: Mark
    node: str
    slot: int
    attempts: int
    task_id: str = ""


def raised(end: End, entry: bytes) -> BaseException:
    """The task's own exception, as it was packed in its slot."""
    error = unpack_exception(entry)
    with contextlib.suppress(Exception):  # a class of the user's may refuse attributes
        error.add_note(_where(end))
    return error


def task_error(end: End, problem: str) -> errors.TaskError:
    """The error that stands for an end without an exception of the task's own."""
    mark = end.mark
    error = _ERRORS.get(mark.kind, errors.TaskFailed)(f"{end.name or 'task'}: {_say(mark, end.timeout, problem)}")
    error.node, error.slot, error.attempt = end.node, end.slot, end.attempts
    error.add_note(_where(end))
    error.exit_code, error.signal = mark.exit_code, mark.signal
    error.peak_memory, error.tail = mark.peak_memory, mark.tail
    if mark.peak_memory:
        error.add_note(f"Its slot's peak memory was {mark.peak_memory / 1024**2:.0f} MB.")
    if mark.tail:
        error.add_note("The last lines it printed:\n  " + "\n  ".join(mark.tail))
    return error


def _where(end: End) -> str:
    """Where a task ended, for people."""
    place = f"node {end.node}, slot {end.slot}" if end.slot >= 0 else "no node"
    known = f" ({end.task_id})" if end.task_id else ""
    return f"Task {end.name or 'task'!r} on {place}, attempt {end.attempts}{known}."


def _say(mark: Mark, timeout: float, problem: str) -> str:
    match mark.kind:
        case Kind.TIMED_OUT:
            return f"ran longer than its timeout of {timeout:g} s and was stopped ({mark.text})"
        case Kind.OUT_OF_MEMORY:
            return f"used more memory than it said it needs and was stopped ({mark.text})"
        case Kind.KILLED:
            return "was stopped while it ran"
        case Kind.RAISED:
            return f"raised {mark.text}, which could not be read here ({problem})"
        case _:
            return mark.text or mark.kind.name.lower()
