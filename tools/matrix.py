"""Runs the tests on every Python >= 3.11 that this machine has.

    python tools/matrix.py [PYTEST ARGUMENT]...

The whole suite runs on the interpreter that runs this script; the tests marked `smoke`, among them CPython's own
executor tests, run once more on each other version found (one interpreter a version, on PATH and under ~/.pyenv),
and once on the first version without uvloop, as on Windows. Each leg has an environment of its own, which is made
when it is missing. At least one leg must have run CPython's executor tests: not every Python carries them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from environment import ROOT, python_of

RESULTS: Final = ROOT / ".test-results"
PROBE: Final = "import sys, venv, ensurepip; print(*sys.version_info[:2], sys.version_info.releaselevel)"
PROBE_SECONDS: Final = 30
# The tests wait more than they compute. A file stays whole, for it shares a farm, and the order is kept: the long ones come first.
SIDE_BY_SIDE: Final = ("-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile", "--no-loadscope-reorder")
# What kills, freezes and cuts has the machine for itself: promises of seconds are looked at there.
EVERYTHING: Final = (("-m", "chaos"), ("-m", "not chaos", *SIDE_BY_SIDE))
# pytest's own code for "no test was collected".
NOTHING_COLLECTED: Final = 5


class Leg(NamedTuple):
    """One run of the tests: on which interpreter, in which environment, which of them."""

    name: str
    python: Path
    environment: Path
    parts: tuple[tuple[str, ...], ...] = EVERYTHING
    without: tuple[str, ...] = ()


def candidates() -> Iterator[Path]:
    """Files that look like interpreters, the likelier ones first."""
    folders = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    folders += sorted((Path.home() / ".pyenv" / "versions").glob("*/bin"))
    for folder in folders:
        if folder.is_dir():
            yield from sorted(path for path in folder.glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name))


def version_of(python: Path) -> tuple[int, int] | None:
    """An interpreter's version, or None when it does not work, is a pre-release or cannot make an environment."""
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False, timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    major, minor, level = done.stdout.split()
    return (int(major), int(minor)) if level == "final" else None


def other_pythons() -> dict[tuple[int, int], Path]:
    """One interpreter for each version >= 3.11 other than this one."""
    found: dict[tuple[int, int], Path] = {}
    for python in candidates():
        match = re.fullmatch(r"python3\.(\d+)", python.name)
        if match is None or int(match[1]) < 11 or (3, int(match[1])) in found:
            continue
        version = version_of(python)
        if version is not None and version != sys.version_info[:2]:
            found.setdefault(version, python)
    return dict(sorted(found.items()))


def legs() -> list[Leg]:
    """What there is to run on this machine."""
    first = f"{sys.version_info[0]}.{sys.version_info[1]}"
    python = Path(sys.executable)
    smoke = (("-m", "smoke", *SIDE_BY_SIDE),)
    plan = [
        Leg(f"Python {first}", python, Path(".venv")),
        Leg(f"Python {first} without uvloop", python, Path(f".venv-{first}-plain"), smoke, ("uvloop",)),
    ]
    for (major, minor), other in other_pythons().items():
        plan.append(Leg(f"Python {major}.{minor}", other, Path(f".venv-{major}.{minor}"), smoke))
    return plan


def run_leg(leg: Leg, arguments: list[str]) -> bool:
    """Sets the leg's environment up, runs its tests, and says how it went."""
    print(f"\n=== {leg.name}: {'all tests' if leg.parts is EVERYTHING else 'the smoke tests'} ===", flush=True)
    without = [part for package in leg.without for part in ("--without", package)]
    setup: list[str | Path] = [leg.python, ROOT / "tools" / "environment.py", leg.environment, *without]
    if subprocess.run(setup, cwd=ROOT, check=False).returncode:
        return False
    surroundings = {**os.environ, "FARMHAND_TEST_RESULTS": str(RESULTS)}
    passed = True
    for part in leg.parts:
        command: list[str | Path] = [ROOT / python_of(leg.environment), "-m", "pytest", *part, *arguments]
        code = subprocess.run(command, cwd=ROOT, env=surroundings, check=False).returncode
        # A part that was asked for need not have such a test in it.
        passed = passed and (code == 0 or (code == NOTHING_COLLECTED and bool(arguments)))
    return passed


def report_executor_suite() -> bool:
    """Prints what each leg found about CPython's executor tests; False when no leg has run them."""
    ran = False
    for path in sorted(RESULTS.glob("cpython-executor-*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        ran = ran or facts["ran"]
        print(facts["summary"])
    if not ran:
        print("CPython's executor tests ran on no interpreter: install a Python >= 3.11 that has its `test` package.")
    return ran


def main(arguments: list[str]) -> int:
    """Runs every leg, even after one has failed; 0 when all are well."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir()
    outcomes: list[tuple[str, bool, float]] = []
    for leg in legs():
        started = time.monotonic()
        passed = run_leg(leg, arguments)
        outcomes.append((leg.name, passed, time.monotonic() - started))
    print("\n=== summary ===")
    # With arguments only a part was asked for, and nothing can be said about the whole.
    complete = report_executor_suite() or bool(arguments)
    for name, passed, seconds in outcomes:
        print(f"{name}: {'passed' if passed else 'FAILED'} in {seconds:.0f} s")
    return 0 if complete and all(passed for _, passed, _ in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
