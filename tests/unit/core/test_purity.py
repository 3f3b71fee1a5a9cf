"""The core decides; it does no IO, knows no clock and throws no dice."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import farmhand.core

IMPURE = {"asyncio", "concurrent", "datetime", "multiprocessing", "os", "pathlib", "queue", "random", "secrets", "select",
          "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time", "uuid"}  # fmt: skip
MODULES = sorted(Path(farmhand.core.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_core_module_imports_nothing_impure(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input", "__import__"), path
        else:
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), path
    assert not {name.partition(".")[0] for name in imported} & IMPURE
    for name in imported:
        assert not name.startswith("farmhand.") or name.startswith(
            ("farmhand.core", "farmhand.model", "farmhand.errors")
        ), name
