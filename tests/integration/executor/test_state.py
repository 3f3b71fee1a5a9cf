"""What calls leave for later ones: nothing by default, the session's globals, or not even the process."""

from __future__ import annotations

import os
from typing import Any

import pytest
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S

from farmhand import Farm, errors

COUNTER = """
import sys
from farmhand import Farm
import shelf

count = 0
seen = []
table = {"inner": {"n": 0}}

class Box:
    total = 0

def step(_=None):
    global count, fresh_name
    count += 1
    fresh_name = globals().get("fresh_name", 0) + 1
    seen.append(count)
    table["inner"]["n"] += 1
    Box.total += 1
    return count, fresh_name, len(seen), table["inner"]["n"], Box.total

def look(_=None):
    return count, len(seen)

def shelved(_=None):
    shelf.books.append("x")
    shelf.opened += 1
    shelf.deep["a"]["b"].add(len(shelf.deep["a"]["b"]))
    shelf.Reader.number += 1
    return len(shelf.books), shelf.opened, len(shelf.deep["a"]["b"]), shelf.Reader.number, shelf.bump()

def forgetful(_=None, remembered=[]):
    remembered.append(1)
    return len(remembered)

def counting():
    n = 0
    def count(_=None):
        nonlocal n
        n += 1
        return n
    return count

if __name__ == "__main__":
    with Farm(max_workers=1) as farm:
        calls = farm.options(state=sys.argv[1])
        for fn in (step, shelved, forgetful, counting()):
            print(*[calls.submit(fn).result() for _ in range(3)], sep=" | ")
        print(calls.submit(look).result())
"""

SHELF = """
books = []
opened = 0
deep = {"a": {"b": set()}}
_private = 0

class Reader:
    number = 0

def bump():
    global _private
    _private += 1
    return _private
"""

FRESH = [
    "(1, 1, 1, 1, 1) | (1, 1, 1, 1, 1) | (1, 1, 1, 1, 1)",
    "(1, 1, 1, 1, 1) | (1, 1, 1, 1, 1) | (1, 1, 1, 1, 1)",
    "1 | 1 | 1",
    "1 | 1 | 1",
    "(0, 0)",
]
KEPT = [
    "(1, 1, 1, 1, 1) | (2, 2, 2, 2, 2) | (3, 3, 3, 3, 3)",
    "(1, 1, 1, 1, 1) | (2, 2, 2, 2, 2) | (3, 3, 3, 3, 3)",
    "1 | 2 | 3",
    "1 | 2 | 3",
    "(3, 3)",
]


@pytest.mark.parametrize(("state", "wanted"), [("fresh", FRESH), ("session", KEPT), ("process", FRESH)])
def test_globals_classes_modules_defaults_and_closures(script: Script, state: str, wanted: list[str]) -> None:
    script.file("shelf.py", SHELF)
    assert script.run(COUNTER, state).stdout.splitlines() == wanted


def test_many_calls_in_one_message_are_fresh_too(script: Script) -> None:
    done = script.run(
        """
        from farmhand import Farm

        count = 0

        def step(_):
            global count
            count += 1
            return count

        if __name__ == "__main__":
            with Farm(max_workers=2) as farm:
                print(set(farm.map(step, range(3000))))
                print(sum(farm.options(state="session").map(step, range(3000))) > 3000)
        """
    )
    assert done.stdout.split() == ["{1}", "True"]


def test_each_session_has_its_own_state_beside_an_initializer(script: Script) -> None:
    script.file("shelf.py", SHELF)
    done = script.run(
        """
        import os, subprocess, sys
        import shelf
        from farmhand import Farm
        from farmhand.home import paths

        count = 0

        def set_up(start):
            global count
            count = start
            shelf.opened = start

        def step():
            global count
            count += 1
            shelf.opened += 1
            return count, shelf.opened, shelf.bump()

        if __name__ == "__main__":
            if len(sys.argv) == 1:
                up = [sys.executable, "-m", "farmhand.cli"]
                subprocess.run([*up, "up", "--detach", "--slots", "1"], check=True, stdout=subprocess.DEVNULL)
                address = paths.default_farm().read().address
                try:
                    with Farm(address) as one, Farm(address, initializer=set_up, initargs=(10,)) as other:
                        kept = [farm.options(state="session") for farm in (one, other)]
                        for _ in range(2):
                            for farm in (*kept, one, other):
                                print(*farm.submit(step).result())
                finally:
                    subprocess.run([*up, "down", "--now"], check=True, stdout=subprocess.DEVNULL)
        """,
        FARMHAND_HOME=str(script.folder / "home of a farm"),
    )
    assert done.stdout.splitlines() == [
        "1 1 1", "11 11 1", "1 1 1", "11 11 1",
        "2 2 2", "12 12 2", "1 1 1", "11 11 1",
    ]  # fmt: skip


def test_processes_of_their_own(farm: Farm) -> None:
    calls = farm.options(state="process")
    pids = list(calls.map(own_pid, range(6)))
    assert len(set(pids)) == 6
    assert farm.submit(own_pid, 0).result(PATIENCE_S) not in pids
    assert list(farm.map(abs, range(100))) == list(range(100))


def own_pid(_: int) -> int:
    return os.getpid()


def test_a_crash_in_a_process_of_its_own_is_the_tasks(farm: Farm) -> None:
    with pytest.raises(errors.TaskCrashed):
        farm.options(state="process").submit(os._exit, 3).result(PATIENCE_S)
    assert farm.options(state="process").submit(abs, -3).result(PATIENCE_S) == 3


@pytest.mark.parametrize("wrong", ["Fresh", "", None, 1])
def test_a_wrong_state_is_named(farm: Farm, wrong: Any) -> None:
    with pytest.raises(errors.BadOption, match=r"state=.*'fresh', 'session', 'process'"):
        farm.options(state=wrong)
