"""The one thing that differs from CPython's run of its tests: the executor is a Farm."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import unittest
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Final

from test import support
from tests.conformance.cpython import exclusions, suite

from farmhand import Farm

ROOT: Final = Path(__file__).resolve().parents[3]
# What a node writes before each line that a task prints, when it does.
LABEL: Final = re.compile(rb"^\[[^\]\n]*\] ", re.MULTILINE)

ExecutorMixin: Any = suite.module("util").ExecutorMixin


class PoolLikeFarm(Farm):
    """A Farm that takes a pool's arguments: the number of workers first, and a start method that means nothing here."""

    def __init__(self, max_workers: int | None = None, mp_context: BaseContext | None = None, **options: Any) -> None:
        super().__init__(max_workers=max_workers, **options)


class FarmMixin(ExecutorMixin):
    """Makes the executor of each test, and checks that the test leaves no thread and no child process behind."""

    executor_type = PoolLikeFarm

    def setUp(self) -> None:
        support.environment_altered = support.verbose = False
        shutdown = suite.module("test_shutdown")
        run = farm_script(shutdown.assert_python_ok)
        self.enterContext(support.swap_attr(shutdown, "assert_python_ok", run))
        super().setUp()

    def tearDown(self) -> None:
        super().tearDown()
        self.assertFalse(support.environment_altered, "a thread or a child process was left behind")

    def get_context(self) -> BaseContext:
        """For the tests that want something of multiprocessing beside the executor."""
        return multiprocessing.get_context("spawn")


class SharedKeyMixin(FarmMixin):
    """Gives the slots this process's key: slots are no children of it, and a manager asks for the key."""

    def setUp(self) -> None:
        key = bytes(multiprocessing.current_process().authkey)
        self.executor_kwargs = {"initializer": use_key, "initargs": (key,)}
        super().setUp()


class LogsAsFarmhand:
    """Looks for the initializer's error where a farm logs it: in the caller's process, by its own logger."""

    @contextlib.contextmanager
    def _assert_logged(self: Any, message: str) -> Iterator[None]:
        with self.assertLogs("farmhand", "CRITICAL") as caught:
            yield
        self.assertTrue(any(message in line for line in caught.output), caught.output)


def use_key(key: bytes) -> None:
    """Runs in each slot as it starts."""
    multiprocessing.current_process().authkey = key


def farm_script(run: Any) -> Any:
    """A runner of CPython's scripts that imports the executor from here, not from `concurrent.futures`."""
    wanted = f"from concurrent.futures import {PoolLikeFarm.__name__}"
    given = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {__name__} import {PoolLikeFarm.__name__}"

    def run_on_farm(*arguments: str) -> tuple[int, bytes, bytes]:
        code, out, err = run(*(argument.replace(wanted, given) for argument in arguments))
        return code, LABEL.sub(b"", out), err

    return run_on_farm


def classes() -> Iterator[type[unittest.TestCase]]:
    """Every class of CPython's tests, on the farm; the excluded tests are skipped with their reasons."""
    base = suite.module("util").BaseTestCase
    for source in suite.sources():
        fixture = SharedKeyMixin if source.cls.__name__ == "ProcessPoolExecutorTest" else FarmMixin
        before = (LogsAsFarmhand,) if source.cls.__name__ == "FailingInitializerMixin" else ()
        yield suite.on_farm(source, before, (fixture, base), exclusions.reasons(source))
