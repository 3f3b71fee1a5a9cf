"""What can go from one version of Python to another: names, and data. Bytecode cannot, it belongs to its version."""

from __future__ import annotations

import types
from typing import Any

from farmhand.code.pickler import CodePickler
from farmhand.code.values import Sink
from farmhand.errors import OtherPython


class _PortablePickler(CodePickler):
    """Pickles to nowhere, and raises `OtherPython` at the first thing that would travel as bytecode."""

    def __init__(self, here: str, there: str) -> None:
        super().__init__(Sink(lambda _: None), sealed=False)
        self._here, self._there = here, there

    def _reduce_function(self, fn: types.FunctionType) -> Any:
        if not self._by_reference(fn):
            raise self._error("function", fn)
        return NotImplemented

    def _reduce_class(self, cls: type) -> Any:
        module = cls.__module__
        if module != "builtins" and not self._by_reference(cls):
            raise self._error("class", cls)
        return super()._reduce_class(cls)

    def _error(self, kind: str, thing: Any) -> OtherPython:
        return OtherPython(
            f"the {kind} {thing.__qualname__} of {thing.__module__} travels as bytecode of Python {self._here}, which Python "
            f"{self._there} does not run; put it into a module of its own, which travels as source"
        )


def check_portable(value: Any, here: str, there: str) -> None:
    """Raise `OtherPython` when a part of the value would travel as bytecode. `here` and `there` are minor versions."""
    _PortablePickler(here, there).dump(value)
