"""How many of CPython's executor tests a farm passes, of those that ThreadPoolExecutor and ProcessPoolExecutor run."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Final

from tests.conformance.cpython import exclusions, suite

TARGET: Final = 0.9


class Tally:
    """Counts outcomes as the tests report them; keys are `Class.test` as pytest names them."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.wanted = set(expected()) if suite.available() else set()
        self.baseline = set(shared_baseline()) if suite.available() else set()

    def on_outcome(self, name: str, outcome: str) -> None:
        """One test's outcome; a later failure, as in the clean-up, replaces an earlier pass."""
        if self.outcomes.get(name) != "failed":
            self.outcomes[name] = outcome

    @property
    def complete(self) -> bool:
        """Whether every test had its turn, and not a selection alone."""
        return bool(self.wanted) and self.wanted <= self.outcomes.keys()

    @property
    def passed(self) -> int:
        """Shared tests that passed on the farm."""
        return sum(self.outcomes.get(name) == "passed" for name in self.baseline)

    @property
    def ratio(self) -> float:
        """The share of the shared tests that passed on the farm."""
        return self.passed / len(self.baseline)

    @property
    def summary(self) -> str:
        """One line for people."""
        who = f"CPython {platform.python_version()}'s executor tests"
        if not suite.available():
            return f"{who}: not part of this Python installation, nothing was run"
        if not self.complete:
            return f"{who}: only a part was selected"
        own = self.wanted - self.baseline
        own_passed = sum(self.outcomes[name] == "passed" for name in own)
        return (
            f"{who}: of {len(self.baseline)} that thread and process pools run, Farm passes {self.passed} "
            f"({self.ratio:.0%}); of {len(own)} that are about one kind of pool alone, {own_passed}"
        )

    def write(self, folder: Path) -> None:
        """Leaves a record for whoever runs several interpreters."""
        facts = {"ran": self.complete, "summary": self.summary}
        path = folder / f"cpython-executor-{platform.python_version()}-{os.getpid()}.json"
        path.write_text(json.dumps(facts), encoding="utf-8")


def expected() -> list[str]:
    """Every test there is, as pytest names it: the farm's class and the test."""
    return [f"{suite.class_name(source)}.{test}" for source in suite.sources() for test in source.tests]


def shared_baseline() -> list[str]:
    """The tests that CPython runs on its pools, on this system, and that state what every executor promises."""
    return [
        f"{suite.class_name(source)}.{test}"
        for source in suite.sources()
        if source.shared
        for test in source.tests
        if suite.runs_here(source, test)
    ]


def unknown_exclusions() -> set[str]:
    """Exclusions of a test that this Python does not have: a spelling mistake would hide here."""
    known = {f"{source.cls.__name__}.{test}" for source in suite.sources() for test in source.tests}
    return {*exclusions.SHARED, *exclusions.OWN, *exclusions.RUN_OF_OWN} - known
