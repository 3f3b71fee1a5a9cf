"""The pictures of the architecture are those of the code."""

from __future__ import annotations

import re
import tomllib

from tests.docs.generated import SOURCE
from tests.docs.markdown import DOCS, ROOT, blocks, section

from farmhand.core import holding
from farmhand.core.tasks import TRANSITIONS

PAGE = DOCS / "ARCHITECTURE.md"
_ARROW = re.compile(r"^\s*(\S+) --> (\w+|\[\*\])(?::.*)?$", re.MULTILINE)


def arrows(containing: str) -> set[tuple[str, str]]:
    """The arrows of the state diagram that has this state."""
    found = [
        b.text for b in blocks(PAGE) if b.text.startswith("stateDiagram") and re.search(rf"\b{containing}\b", b.text)
    ]
    assert len(found) == 1
    return set(_ARROW.findall(found[0]))


def test_the_states_of_a_task() -> None:
    table = {(state.name, to.name) for state, targets in TRANSITIONS.items() for to in targets}
    assert {(a, b) for a, b in arrows("BACKOFF") if "[*]" not in (a, b)} == table
    final = {state.name for state, targets in TRANSITIONS.items() if not targets}
    assert {a for a, b in arrows("BACKOFF") if b == "[*]"} == final


def test_the_states_of_a_held_message() -> None:
    assert {name for pair in arrows("STORING") for name in pair} - {"[*]"} == {
        state.name for state in holding.HeldState
    }


def test_the_layers() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contract = next(c for c in settings["contracts"] if c["id"] == "layers")
    there = {p.stem for p in SOURCE.iterdir() if (p / "__init__.py").exists() or p.suffix == ".py"}
    layers = [[name for name in re.findall(r"\w+", line) if name in there] for line in contract["layers"]]
    drawn = next(b.text for b in blocks(PAGE) if b.text.startswith("testing "))
    assert [line.split() for line in drawn.splitlines()] == [layer for layer in layers if layer]


def test_files_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE.read_text(encoding="utf-8")))
    named |= set(re.findall(r"`((?:\w+/)+\w+\.py)`", (DOCS / "platforms.md").read_text(encoding="utf-8")))
    missing = [name for name in named if not (SOURCE / name).exists() and not (ROOT / name).exists()]
    missing = [name for name in missing if not (SOURCE.parent / name).exists()]
    assert not missing


def test_the_page_has_a_part_for_each_machine() -> None:
    for module in ("core/session.py", "core/holding.py", "core/membership.py"):
        assert f"`{module}`" in section(PAGE, "The three machines")
