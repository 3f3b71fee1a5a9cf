"""What the tasks of these tests do. Slots import this, so it imports the standard library, and Farmhand only in a task that submits."""

from __future__ import annotations

import os
import pickle
import socket
import time
from typing import Any

_own_file: dict[tuple[int, str], int] = {}


def effect(number: int, folder: str, seconds: float = 0.0) -> int:
    """Leave a trace that the task with this number ran, in a file of this process, then be busy for a while."""
    key = os.getpid(), folder
    if key not in _own_file:
        _own_file[key] = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(_own_file[key], b"%d\n" % number)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return number


def visit(place: str, word: Any = None, folder: str = "") -> tuple[Any, int]:
    """Arrive at a `chaos.meeting` and stay until released. The word and this process's id."""
    if folder:
        effect(int(word), folder)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(place)
        sock.sendall(pickle.dumps((os.getpid(), word)))
        sock.recv(1)
    return word, os.getpid()


def visit_and_fail(place: str, word: Any = None, *, crash: bool = False) -> None:
    """The same, and end badly."""
    visit(place, word)
    if crash:
        os._exit(3)
    raise ValueError(word)


def visit_twice(place: str, word: Any = None) -> tuple[Any, int]:
    """The same, and come once more at the end of the task."""
    visit(place, word)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(place)
        sock.sendall(pickle.dumps((os.getpid(), ("finished", word))))
    return word, os.getpid()


def size_of(data: bytes) -> int:
    return len(data)


def bytes_of(size: int) -> bytes:
    return os.urandom(size)


def number(value: int) -> int:
    return value


def visit_with_children(place: str, word: Any = None) -> Any:
    """Have a child visit; when that fails, come and say how."""
    from farmhand import Farm, errors

    try:
        return Farm.current().submit(visit, place, word).result()
    except errors.TaskError as error:
        return visit(place, ("heard", type(error).__name__))


def add_up(_depth: int, one: int, other: int) -> int:
    return one + other
