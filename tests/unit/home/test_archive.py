"""The file of a backup: whole, or named as damaged."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farmhand import errors
from farmhand.home import archive

PARTS = [("manifest", b"{}"), ("chunk:WORK", b"a" * 3000), ("chunk:WORK", b""), ("file:keys/ä.nk", bytes(range(256)))]


def written(path: Path, parts: list[tuple[str, bytes]]) -> Path:
    writer = archive.Writer(path, replace=True)
    for name, data in parts:
        writer.add(name, data)
    assert writer.finish() == path.stat().st_size
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("a folder") / "whole", PARTS).read_bytes()


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = written(tmp_path / "file", PARTS)
    assert list(archive.parts(path)) == PARTS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_was_cut_off_or_changed_is_named(
    data: st.DataObject, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["cut", "flipped", "longer", "hole"]))
    bad = {
        "cut": whole[:at],
        "flipped": whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :],
        "longer": whole + whole[: at + 1],
        "hole": whole[:at] + whole[at + 1 :],
    }[kind]
    path = tmp_path_factory.mktemp("bad") / "file"
    path.write_bytes(bad)
    with pytest.raises(errors.BackupDamaged, match="file"):
        list(archive.parts(path))


def test_a_missing_part_is_noticed(whole: bytes, tmp_path: Path) -> None:
    """Each of the others is whole."""
    first, second = (written(tmp_path / str(n), PARTS[:n]).read_bytes() for n in (1, 2))
    end_of_first = len(first) - (len(whole) - len(written(tmp_path / "all but the end", PARTS).read_bytes()) + 76)
    assert whole.startswith(first[:end_of_first])
    without = whole[:end_of_first] + whole[len(second) - 76 :]
    path = tmp_path / "file"
    path.write_bytes(without)
    with pytest.raises(errors.BackupDamaged, match="parts are missing"):
        list(archive.parts(path))


def test_nothing_is_left_of_one_that_failed_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path / "file", PARTS)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="--force"):
        archive.Writer(path, replace=False)
    writer = archive.Writer(path, replace=True)
    writer.add("x", b"y")
    writer.abandon()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
