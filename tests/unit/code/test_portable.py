"""What may go to another version of Python, and what is bytecode."""

from __future__ import annotations

import functools
import types
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest

from farmhand.code.portable import check_portable
from farmhand.errors import FarmhandError, OtherPython


def local_class() -> type:
    class Local:
        pass

    return Local


def made_module() -> types.ModuleType:
    module = types.ModuleType("made_up")
    exec("def f(): pass", vars(module))
    return module


@pytest.mark.parametrize(
    "value",
    [5, "text", [1, {"a": (2.0, None)}], print, len, dict, PurePosixPath("/a"), functools.partial(print, 1), FarmhandError("x"),
     np.arange(3), functools.lru_cache, check_portable, types],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)  # fmt: skip
def test_data_and_what_has_a_name_elsewhere(value: Any) -> None:
    check_portable(value, "3.11", "3.12")


@pytest.mark.parametrize(
    "value",
    [lambda: 1, [lambda: 1], functools.partial(lambda: 1), functools.lru_cache(lambda: 1), local_class(), local_class()(),
     {"a": (local_class(),)}, made_module()],
)  # fmt: skip
def test_bytecode_in_any_place(value: Any) -> None:
    with pytest.raises(OtherPython, match=r"Python 3\.11.*Python 3\.12"):
        check_portable(value, "3.11", "3.12")


def test_the_thing_is_named() -> None:
    with pytest.raises(OtherPython, match=r"the class local_class\.<locals>\.Local of .*test_portable"):
        check_portable([local_class()()], "3.11", "3.12")
