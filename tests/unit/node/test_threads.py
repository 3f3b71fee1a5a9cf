"""Which numbers of threads are ours to set, and how libraries that are loaded hear of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from farmhand.node.threads import GENERAL, VARIABLES, Threads


def test_all_are_ours_when_nobody_has_set_any() -> None:
    environment: dict[str, str] = {}
    threads = Threads(environment)
    threads.set(2)
    assert environment == dict.fromkeys(VARIABLES, "2")
    threads.set(1)
    assert environment == dict.fromkeys(VARIABLES, "1")


def test_what_the_owner_has_set_stays() -> None:
    environment = {"MKL_NUM_THREADS": "7"}
    Threads(environment).set(2)
    assert environment == dict.fromkeys(VARIABLES, "2") | {"MKL_NUM_THREADS": "7"}


def test_what_falls_back_on_what_the_owner_has_set_stays_unset() -> None:
    environment = {GENERAL: "7"}
    Threads(environment).set(2)
    assert environment == {GENERAL: "7", "VECLIB_MAXIMUM_THREADS": "2"}


PROGRAM = """
import sys
without = sys.argv[1] == "without"
if without:
    sys.modules["threadpoolctl"] = None
from farmhand.node.threads import Threads
threads = Threads()
threads.set(1)
assert "numpy" not in sys.modules
import numpy
for count in (2, 1, 2):
    threads.set(count)
    sys.modules.pop("threadpoolctl", None)
    import threadpoolctl
    print({lib["internal_api"]: lib["num_threads"] for lib in threadpoolctl.threadpool_info()}["openblas"])
    if without:
        sys.modules["threadpoolctl"] = None
"""


@pytest.mark.parametrize("how", ["with", "without"])
def test_a_loaded_library_is_told(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["2", "1", "2"]
