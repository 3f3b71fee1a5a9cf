"""What earlier versions have stored is read by this one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.golden.make import make
from tests.golden.stored import STORED

HERE = Path(__file__).parent
BY_NAME = {stored.name: stored for stored in STORED}
FILES = sorted(path for path in HERE.glob("*.*.*/*") if path.suffix != ".expected")


def covers(found: Any, expected: Any) -> bool:
    """Whether all that was stored is found; there may be more, which a later version has added."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            name in found and covers(found[name], expected[name]) for name in expected
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) >= len(expected) and all(map(covers, found, expected))
    return bool(found == expected)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_stored_is_read(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / path.name)
    (tmp_path / path.name).chmod(0o600)
    found = msgspec.json.decode(msgspec.json.encode(BY_NAME[path.name].read(tmp_path)))
    assert covers(found, msgspec.json.decode(path.with_name(f"{path.name}.expected").read_bytes()))


def test_each_kind_is_there() -> None:
    assert {path.name for path in FILES} == set(BY_NAME), "run python tests/golden/make.py"


def test_nothing_that_is_there_is_changed(tmp_path: Path) -> None:
    assert make(tmp_path) == []
    assert make(tmp_path) == []
    changed = tmp_path / "lane.json"
    changed.write_bytes(b"{}")
    assert make(tmp_path) == ["lane.json"]
    assert changed.read_bytes() == b"{}"


def test_what_is_missing_is_noticed() -> None:
    assert covers({"a": [1, 2], "b": 0}, {"a": [1]})
    assert not covers({"a": [1]}, {"a": [1, 2]})
    assert not covers({"a": 1}, {"b": 1})
