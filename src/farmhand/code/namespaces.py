"""The globals of functions that travel by value.

Each packed function brings the globals it uses, as they were when it was packed, into a namespace of its own. But
what an initializer assigns to a global in the slot is meant for all functions of that module. So a namespace carries
the name of its module; the loader sees each one that is made and lays over it what the initializer left.
"""

from __future__ import annotations

import contextvars
from typing import Any, Final

Made = list[tuple[str, dict[str, Any]]]
_made: Final = contextvars.ContextVar[Made | None]("farmhand_namespaces", default=None)


class Namespace:
    """Stands in a pickle for the globals of functions of one module."""

    __slots__ = ("base", "name")

    def __init__(self, name: str, base: dict[str, Any]) -> None:
        self.name = name
        self.base = base


def make_namespace(name: str, base: dict[str, Any]) -> dict[str, Any]:
    """The globals for the functions that follow in the same pickle."""
    made = _made.get()
    if made is not None:
        made.append((name, base))
    return base


class Collected:
    """Context: the namespaces that unpickling makes meanwhile, with their modules' names."""

    def __enter__(self) -> Made:
        found: Made = []
        self._token = _made.set(found)
        return found

    def __exit__(self, *_: object) -> None:
        _made.reset(self._token)


def marks_of(namespace: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What each name is bound to and what that holds, to tell later what was assigned or changed in place."""
    return {name: (value, _inside(value)) for name, value in namespace.items() if name != "__builtins__"}


def changes_since(marks: dict[str, tuple[Any, Any]], namespace: dict[str, Any]) -> dict[str, Any]:
    """The names that were bound anew or whose container or object changed in place since the marks were taken."""
    changed: dict[str, Any] = {}
    for name, value in namespace.items():
        if name == "__builtins__":
            continue
        before = marks.get(name)
        if before is None or before[0] is not value or not _same(before[1], _inside(value)):
            changed[name] = value
    return changed


def _inside(value: Any) -> Any:
    """What it holds, one level deep: an initializer fills a dictionary or sets attributes."""
    kind = type(value)
    if kind is dict:
        return [*value.keys(), *value.values()]
    if kind is list or kind is set:
        return list(value)
    state = getattr(value, "__dict__", None)
    if type(state) is dict and not isinstance(value, type) and not callable(value):
        return [*state.keys(), *state.values()]
    return None


def _same(before: Any, after: Any) -> bool:
    if before is None or after is None:
        return before is after
    return len(before) == len(after) and all(x is y for x, y in zip(before, after, strict=True))
