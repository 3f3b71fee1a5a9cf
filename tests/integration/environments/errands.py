"""What the tests' tasks do. Slots in an environment import this, so it imports nothing but the standard library."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable

count = 0


def weigh(n: int) -> int:
    import barley

    return int(barley.weigh(n))


def has_barley() -> bool:
    return importlib.util.find_spec("barley") is not None


def prefix_and_path() -> tuple[str, str, str]:
    return sys.prefix, os.environ.get("VIRTUAL_ENV", ""), os.environ["PATH"].partition(os.pathsep)[0]


def version() -> tuple[int, int]:
    return sys.version_info[:2]


def set_up(start: int) -> None:
    import barley

    global count
    count = barley.weigh(start)


def count_up() -> int:
    global count
    count += 1
    return count


def die() -> None:
    import barley

    os._exit(barley.weigh(2))


def make_function() -> Callable[[], int]:
    return lambda: 1


def fail() -> None:
    class OwnError(Exception):
        pass

    raise OwnError("of its own kind")
