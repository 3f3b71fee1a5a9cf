"""Effects have to be looked at: what the core asks for and a test does not expect fails the test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

E = TypeVar("E")


class Effects:
    """Collects what a core returned. `take` removes the next effect, which must be of that type."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []

    def add(self, effects: Iterable[Any]) -> None:
        """What the core has just asked for. Everything before must have been taken."""
        self.nothing()
        self._waiting += effects

    def take(self, kind: type[E]) -> E:
        """The next effect."""
        assert self._waiting, f"no effect is left, {kind.__name__} was expected"
        effect = self._waiting.pop(0)
        assert isinstance(effect, kind), f"{effect} in the place of a {kind.__name__}"
        return effect

    def take_all(self, kind: type[E]) -> list[E]:
        """All that are left, which must be of that type."""
        return [self.take(kind) for _ in range(len(self._waiting))]

    def nothing(self) -> None:
        """Nothing is left to look at."""
        assert not self._waiting, f"nobody has looked at {self._waiting}"


@contextmanager
def all_seen() -> Iterator[Effects]:
    """Effects that have all been looked at by the end."""
    effects = Effects()
    yield effects
    effects.nothing()
