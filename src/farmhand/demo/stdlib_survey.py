"""The demo's work: reads, parses and measures every Python file of the standard library.

Real input of uneven size, which anyone who has Python has. `analyse` looks at one file and knows of no other, so it can
run anywhere; `merge` makes the findings of all of them. Both are pure functions of the files: two runs agree exactly.
"""

from __future__ import annotations

import ast
import sysconfig
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

MOST_IMPORTED: Final = 8
LARGEST: Final = 5

# Folders of packages that were installed into the standard library's own folder.
_NOT_STANDARD: Final = frozenset({"site-packages", "dist-packages"})
_BLOCKS: Final = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.With,
    ast.AsyncWith,
    ast.Try,
    ast.TryStar,
    ast.Match,
)
_HOLDERS: Final = ("body", "orelse", "handlers", "finalbody", "cases")
# The filters of warnings belong to the whole process, and an executor of threads calls `analyse` side by side.
_parsing: Final = threading.Lock()


class Reading(StrEnum):
    """What became of a file."""

    PARSED = "parsed"
    UNDECODABLE = "not decodable"
    UNPARSABLE = "not valid Python"


@dataclass(frozen=True, slots=True, order=True)
class FunctionSize:
    """A function and its length in lines."""

    lines: int = 0
    name: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What one file contains. `file` is relative to the standard library's folder; `depth` counts nested blocks."""

    file: str
    reading: Reading
    lines: int = 0
    functions: int = 0
    classes: int = 0
    depth: int = 0
    imports: tuple[str, ...] = ()
    longest: FunctionSize = FunctionSize()


@dataclass(frozen=True, slots=True)
class Findings:
    """What all files together contain."""

    files: int
    undecodable: int
    unparsable: int
    lines: int
    functions: int
    classes: int
    deepest: tuple[int, str]
    longest: FunctionSize
    largest: tuple[tuple[int, str], ...]
    most_imported: tuple[tuple[str, int], ...]


def library_folder() -> Path:
    """Where this interpreter's standard library is."""
    return Path(sysconfig.get_path("stdlib"))


def python_files() -> list[Path]:
    """Every Python source file of the standard library, about 1,700, sorted."""
    root = library_folder()
    return sorted(path for path in root.rglob("*.py") if _NOT_STANDARD.isdisjoint(path.relative_to(root).parts))


def analyse(path: Path) -> FileFacts:
    """Reads, parses and measures one file.

    Some files of the library are there to be wrong: tests of the parser and of decoders. They are counted as what they
    are and never raise.

    Raises:
        OSError: the file cannot be read.
    """
    name = _relative(path)
    data = path.read_bytes()
    try:
        tree = _parse(data)
    except UnicodeDecodeError:
        return FileFacts(name, Reading.UNDECODABLE)
    except SyntaxError as error:
        # The parser reports a bad encoding as a syntax error too.
        undecodable = "codec" in error.msg or "encoding" in error.msg
        return FileFacts(name, Reading.UNDECODABLE if undecodable else Reading.UNPARSABLE)
    except ValueError:
        return FileFacts(name, Reading.UNPARSABLE)
    functions = classes = deepest = 0
    longest = FunctionSize(file=name)
    imports: set[str] = set()
    # A list of our own, for a deeply nested file must not exhaust the interpreter's stack.
    to_see: list[tuple[ast.AST, int]] = [(tree, 0)]
    # Expressions are not looked into: what is counted are statements, which no expression holds.
    while to_see:
        node, depth = to_see.pop()
        deepest = max(deepest, depth)
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions += 1
                longest = max(longest, _size(node, name))
            case ast.ClassDef():
                classes += 1
            case ast.Import():
                imports.update(alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                imports.add(module.partition(".")[0])
            case _:
                pass
        to_see.extend((child, depth + _is_deeper(node, child)) for child in _statements(node))
    return FileFacts(
        name, Reading.PARSED, data.count(b"\n"), functions, classes, deepest, tuple(sorted(imports)), longest
    )


def merge(facts: Iterable[FileFacts]) -> Findings:
    """The findings of many files, the same in whatever order they come."""
    everything = sorted(facts, key=lambda each: each.file)
    readings = Counter(each.reading for each in everything)
    importers = Counter(module for each in everything for module in each.imports)
    by_use = sorted(importers.items(), key=lambda item: (-item[1], item[0]))
    by_size = sorted(((each.lines, each.file) for each in everything), key=lambda item: (-item[0], item[1]))
    return Findings(
        files=len(everything),
        undecodable=readings[Reading.UNDECODABLE],
        unparsable=readings[Reading.UNPARSABLE],
        lines=sum(each.lines for each in everything),
        functions=sum(each.functions for each in everything),
        classes=sum(each.classes for each in everything),
        deepest=max(((each.depth, each.file) for each in everything), default=(0, "")),
        longest=max((each.longest for each in everything), default=FunctionSize()),
        largest=tuple(by_size[:LARGEST]),
        most_imported=tuple(by_use[:MOST_IMPORTED]),
    )


def _relative(path: Path) -> str:
    root = library_folder()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _parse(source: bytes) -> ast.Module:
    with _parsing, warnings.catch_warnings():
        # Old files carry escapes that the parser warns of; where warnings are errors they would not parse.
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements right inside a node, and the handlers and cases that hold further ones."""
    for field in _HOLDERS:
        yield from getattr(node, field, ())


def _size(node: ast.FunctionDef | ast.AsyncFunctionDef, file: str) -> FunctionSize:
    return FunctionSize((node.end_lineno or node.lineno) - node.lineno + 1, node.name, file)


def _is_deeper(parent: ast.AST, child: ast.AST) -> bool:
    """Whether a child is one block deeper than its parent: an `elif` is not, though the tree nests it."""
    if not isinstance(child, _BLOCKS):
        return False
    is_elif = (
        isinstance(parent, ast.If)
        and isinstance(child, ast.If)
        and parent.orelse == [child]
        and child.col_offset == parent.col_offset
    )
    return not is_elif
