"""CPython's own executor tests, with only the fixture replaced: where they are, and which of them a farm runs.

`test.test_concurrent_futures` is a package from Python 3.12 on and one module before; some installations leave it out.
Its tests are of two kinds. The *shared* ones state what every executor promises: they are written once, as mixins, and
CPython runs them on each of its pools. The pools' *own* tests state what one pool promises beyond that, and mostly look
at its private threads, processes and queues.
"""

from __future__ import annotations

import importlib
import importlib.util
import unittest
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Final, NamedTuple

PACKAGE: Final = "test.test_concurrent_futures"

# (module in the package, class): the mixins that CPython runs on more than one pool or start method.
SHARED: Final = (
    ("executor", "ExecutorTest"),
    ("test_wait", "WaitTests"),
    ("test_as_completed", "AsCompletedTests"),
    ("test_shutdown", "ExecutorShutdownTest"),
    ("test_deadlock", "ExecutorDeadlockTest"),
    ("test_init", "InitializerMixin"),
    ("test_init", "FailingInitializerMixin"),
)
OWN: Final = (
    ("test_thread_pool", "ThreadPoolExecutorTest"),
    ("test_wait", "ThreadPoolWaitTests"),
    ("test_shutdown", "ThreadPoolShutdownTest"),
    ("test_process_pool", "ProcessPoolExecutorTest"),
    ("test_shutdown", "ProcessPoolShutdownTest"),
    ("test_init", "FailingInitializerResourcesTest"),
)


class Source(NamedTuple):
    """A class of CPython's tests and the names of the tests that it defines itself."""

    shared: bool
    cls: type
    tests: tuple[str, ...]


def available() -> bool:
    """Whether this interpreter was installed with its executor tests."""
    try:
        return importlib.util.find_spec(PACKAGE) is not None
    except ModuleNotFoundError:
        return False


def module(name: str) -> ModuleType:
    """A module of the package; before Python 3.12 there is only one."""
    package = importlib.import_module(PACKAGE)
    return importlib.import_module(f"{PACKAGE}.{name}") if hasattr(package, "__path__") else package


def sources() -> Iterator[Source]:
    """Every class of tests there is. A class that this version does not have is left out."""
    for shared, table in ((True, SHARED), (False, OWN)):
        for name, class_name in table:
            cls = getattr(module(name), class_name, None)
            if cls is not None:
                yield Source(shared, cls, tuple(test for test in vars(cls) if test.startswith("test")))


def runs_here(source: Source, test: str) -> bool:
    """Whether CPython itself would run this test on this system."""
    return not getattr(vars(source.cls)[test], "__unittest_skip__", False)


def class_name(source: Source) -> str:
    """The name of the class that runs a source's tests on a farm."""
    return f"Farm{source.cls.__name__.removesuffix('Mixin')}"


def on_farm(
    source: Source, before: tuple[type, ...], after: tuple[type, ...], reasons: dict[str, str]
) -> type[unittest.TestCase]:
    """A class that runs the tests of `source` with the fixture around it; those with a reason are skipped.

    A shared class is inherited from. A pool's own class carries that pool's fixture already, so its methods are copied.
    """
    skips = {test: unittest.skip(reason)(stand_in(test)) for test, reason in reasons.items()}
    name = class_name(source)
    if source.shared:
        return type(name, (*before, source.cls, *after), {"__module__": __name__, **skips})
    own = {key: value for key, value in vars(source.cls).items() if not key.startswith("__")}
    return type(name, (*before, *after), {"__module__": __name__, **own, **skips})


def stand_in(name: str) -> Callable[[object], None]:
    """An empty test in the place of an excluded one: marking CPython's own function would mark it for its pools too."""

    def excluded(_self: object) -> None:
        pass

    excluded.__name__ = name
    return excluded
