"""Checks the sizes that keep this code readable: functions up to 50 lines, modules up to 500, one noun a module.

    python tools/sizes.py src tools tests

A function's size runs from its `def` to its last line, without its decorators and its docstring: a docstring that
says shapes, units and errors must never be what makes a function too long. Prints `file:line: what` for each
offence and ends with 1 when there is one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

FUNCTION_LINES: Final = 50
MODULE_LINES: Final = 500
# A drawer for everything has no reason to stop growing.
NAMES_OF_DRAWERS: Final = frozenset({"common", "commons", "helper", "helpers", "misc", "util", "utils"})


class Offence(NamedTuple):
    """One thing to mend, and where."""

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The number of lines of a function, from its `def` to its end, without its docstring."""
    end = node.end_lineno or node.lineno
    lines = end - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        text = node.body[0]
        lines -= (text.end_lineno or text.lineno) - text.lineno + 1
    return lines


def check_module(path: Path) -> Iterator[Offence]:
    """What is too large or badly named in one file."""
    if path.stem in NAMES_OF_DRAWERS or path.parent.name in NAMES_OF_DRAWERS:
        yield Offence(path, 1, f"a module is named by what it is about, not {path.stem!r} in {path.parent.name!r}")
    source = path.read_text(encoding="utf-8")
    lines = len(source.splitlines())
    if lines > MODULE_LINES:
        yield Offence(path, MODULE_LINES + 1, f"the module has {lines} lines, more than {MODULE_LINES}")
    try:
        tree = ast.parse(source, str(path))
    except SyntaxError as error:
        yield Offence(path, error.lineno or 1, f"not Python: {error.msg}")
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and function_lines(node) > FUNCTION_LINES:
            yield Offence(
                path, node.lineno, f"{node.name} has {function_lines(node)} lines, more than {FUNCTION_LINES}"
            )


def python_files(roots: list[Path]) -> Iterator[Path]:
    """Each Python file under the roots, sorted; a root may be a file."""
    for root in roots:
        if root.is_file():
            yield root
        else:
            yield from sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)


def main(arguments: list[str]) -> int:
    """Prints every offence under the given folders and files; 1 when there is one, 2 without arguments."""
    roots = [Path(argument) for argument in arguments]
    if not roots or not all(root.exists() for root in roots):
        print("usage: sizes.py FOLDER_OR_FILE...", file=sys.stderr)
        return 2
    files = list(python_files(roots))
    offences = [offence for path in files for offence in check_module(path)]
    for offence in offences:
        print(offence)
    if not offences:
        print(f"sizes: {len(files)} modules are within {MODULE_LINES} lines, their functions within {FUNCTION_LINES}")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
