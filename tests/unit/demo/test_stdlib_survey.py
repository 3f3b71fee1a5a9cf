from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from farmhand.demo.stdlib_survey import (
    FileFacts,
    FunctionSize,
    Reading,
    analyse,
    library_folder,
    merge,
    python_files,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source.py"


def test_the_library_has_the_files_that_everybody_knows() -> None:
    files = python_files()
    names = {path.relative_to(library_folder()).as_posix() for path in files}
    assert {"ast.py", "json/decoder.py", "concurrent/futures/thread.py"} <= names
    assert len(files) > 500
    assert files == sorted(files)
    assert not any("site-packages" in name for name in names)


def test_counts_what_a_file_contains(source: Path) -> None:
    source.write_text(
        "import os, sys.path\n"
        "from json.decoder import JSONDecoder\n"
        "from . import sibling\n"
        "class Cow:\n"
        "    async def moo(self):\n"
        "        import os\n"
        "        return 1\n"
        "def milk(): pass\n"
    )
    assert analyse(source) == FileFacts(
        file=source.as_posix(),
        reading=Reading.PARSED,
        lines=8,
        functions=2,
        classes=1,
        depth=2,
        imports=("json", "os", "sys"),
        longest=FunctionSize(3, "moo", source.as_posix()),
    )


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("x = 1\n", 0),
        ("if x:\n  pass\nelif y:\n  pass\nelse:\n  pass\n", 1),
        ("if x:\n  pass\nelse:\n  if y:\n    pass\n", 2),
        ("for a in b:\n  while c:\n    with d:\n      pass\n", 3),
        ("try:\n  pass\nexcept A:\n  if b:\n    pass\nfinally:\n  pass\n", 2),
        ("match a:\n  case 1:\n    for b in c: pass\n", 2),
    ],
)
def test_depth_counts_nested_blocks(source: Path, text: str, depth: int) -> None:
    source.write_text(text)
    assert analyse(source).depth == depth


@pytest.mark.parametrize(
    ("data", "reading"),
    [
        (b"print 'two'\n", Reading.UNPARSABLE),
        (b"x = '\xff'\n", Reading.UNDECODABLE),
        (b"# coding: no-such-codec\n", Reading.UNDECODABLE),
        (b"a = 1\0\n", Reading.UNPARSABLE),
        (b"x = '\\d'\n", Reading.PARSED),
        (b"", Reading.PARSED),
    ],
)
def test_a_file_that_is_meant_to_be_wrong_is_counted_and_never_raises(
    source: Path, data: bytes, reading: Reading
) -> None:
    source.write_bytes(data)
    assert analyse(source).reading == reading


def test_nesting_beyond_the_interpreters_stack_is_no_trouble(source: Path) -> None:
    # An elif is nested in the tree, and the parser allows thousands.
    source.write_text("if x: pass\n" + "elif x: pass\n" * 900)
    assert analyse(source).depth == 1


def test_the_order_of_the_facts_changes_nothing() -> None:
    facts = [analyse(path) for path in python_files()[:60]]
    shuffled = random.Random(7).sample(facts, len(facts))
    assert merge(facts) == merge(shuffled)
    assert merge(facts).files == 60


def test_nothing_to_merge_is_fine() -> None:
    findings = merge([])
    assert (findings.files, findings.longest.lines, findings.deepest) == (0, 0, (0, ""))


def test_threads_agree_with_a_serial_run() -> None:
    files = python_files()[:150]
    with ThreadPoolExecutor(4) as executor:
        assert merge(executor.map(analyse, files)) == merge(map(analyse, files))
