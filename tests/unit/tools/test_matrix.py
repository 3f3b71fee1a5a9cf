from __future__ import annotations

import sys
from pathlib import Path

import pytest

import matrix


def test_this_python_is_found_to_work() -> None:
    assert matrix.version_of(Path(sys.executable)) in (sys.version_info[:2], None)


def test_a_name_on_path_that_is_no_python_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python3.99"
    fake.write_text("#!/bin/sh\necho 'not installed' >&2\nexit 127\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert list(matrix.candidates()) == [fake]
    assert matrix.other_pythons() == {}


def test_one_interpreter_a_version_is_taken_the_first_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        fake = tmp_path / folder / "python3.98"
        fake.write_text("#!/bin/sh\necho 3 98 final\n")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert matrix.other_pythons() == {(3, 98): tmp_path / "first" / "python3.98"}
    assert [leg.parts[0][:2] for leg in matrix.legs()] == [("-m", "chaos"), ("-m", "smoke"), ("-m", "smoke")]


def test_a_summary_without_the_executor_suite_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "RESULTS", tmp_path)
    (tmp_path / "cpython-executor-3.11.json").write_text('{"ran": false, "summary": "3.11: none"}')
    assert not matrix.report_executor_suite()
    (tmp_path / "cpython-executor-3.13.json").write_text('{"ran": true, "summary": "3.13: all"}')
    assert matrix.report_executor_suite()
    assert "3.13: all" in capsys.readouterr().out
