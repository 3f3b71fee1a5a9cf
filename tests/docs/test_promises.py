"""The promises name tests that exist, and one of them is shown here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tests.docs.generated import SOURCE
from tests.docs.markdown import DOCS, ROOT

PAGE = DOCS / "PROMISES.md"
_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_UNPICKLES = {"pickle", "cloudpickle", "marshal", "shelve", "dill"}


def parts() -> dict[str, str]:
    found = re.split(r"^## (P\d+) ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_all_twelve_are_there() -> None:
    assert list(parts()) == [f"P{number}" for number in range(1, 13)]


@pytest.mark.parametrize(("path", "function"), sorted(set(_NAMED.findall(PAGE.read_text(encoding="utf-8")))))
def test_a_named_test_exists(path: str, function: str) -> None:
    assert (ROOT / path).exists(), path
    if function:
        assert re.search(rf"^\s*(?:async )?def {function}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("promise", [p for p in parts() if p != "P10"])
def test_a_promise_has_how_tests_and_limits(promise: str) -> None:
    text = parts()[promise]
    assert "**How.**" in text
    assert "**Limits.**" in text
    assert _NAMED.search(text)


def services() -> list[Path]:
    """The modules of the steward, and those of a node but for the slot, which runs tasks."""
    node = [path for path in (SOURCE / "node").glob("*.py") if path.name not in ("slot.py", "slotinputs.py")]
    below = [
        path for layer in ("engine", "security", "core", "model", "home") for path in (SOURCE / layer).glob("*.py")
    ]
    return [*(SOURCE / "steward").glob("*.py"), *node, *below]


def test_no_service_imports_what_unpickles() -> None:
    found = []
    for path in services():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [
                (path.name, n) for n in names if n.partition(".")[0] in _UNPICKLES or n.startswith("farmhand.code")
            ]
    assert found == []
