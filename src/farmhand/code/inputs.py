"""Inputs: values that a call gets besides its packed arguments, because they lie on the farm or are made there.

While arguments are packed, an object of a kind that is registered in `kinds` (a future, a reference) is replaced by its
number, at any depth. While they are unpacked in the slot, the number is replaced by the value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

kinds: Final[dict[type, Callable[[Any], Any]]] = {}  # what may stand for an input, and what is noted for it

_take: Callable[[int], Any] | None = None  # a slot unpickles on one thread only


@contextlib.contextmanager
def fed(take: Callable[[int], Any]) -> Iterator[None]:
    """Context: what is unpickled meanwhile finds its inputs with `take`."""
    global _take
    before, _take = _take, take
    try:
        yield
    finally:
        _take = before


def take_input(number: int) -> Any:
    """Stands in a pickle for an input."""
    if _take is None:
        raise ValueError("these arguments refer to values on a farm, and can be unpickled there only")
    return _take(number)
