"""What the tests of futures as arguments call, in ordinary sessions and in named ones. Slots import it: standard library only."""

from __future__ import annotations

from typing import Any


class Box:
    def __init__(self, held: Any) -> None:
        self.held = held


def inc(value: int, _after: Any = None) -> int:
    return value + 1


def produce(size: int) -> bytes:
    return b"\x01" * size


def grow(data: bytes) -> bytes:
    return data + b"\x02"


def append(values: list[int], value: int) -> list[int]:
    values.append(value)
    return values


def fail(*_: Any) -> None:
    raise ValueError("no value")


def unbox(box: Box) -> Any:
    return box.held
