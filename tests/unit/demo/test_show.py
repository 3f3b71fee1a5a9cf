from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from farmhand.demo import NodeActivity, run, show
from farmhand.demo.stdlib_survey import python_files


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> int:
    files = python_files()[:40]
    monkeypatch.setattr(show, "python_files", lambda: files)
    return len(files)


def nodes() -> list[NodeActivity]:
    return [NodeActivity("barn", slots=2, busy=1, done=1234), NodeActivity("field", slots=1, busy=0, done=5)]


def test_shows_findings_nodes_speed_and_where_the_picture_is(few_files: int, tmp_path: Path) -> None:
    picture = tmp_path / "with blanks.png"
    console = Console(file=io.StringIO(), width=110)
    with ThreadPoolExecutor(2) as farm:
        report = run(farm, console, activity=nodes, picture=picture, picture_width=60)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert report.same
    assert report.findings.files == few_files
    assert picture.read_bytes().startswith(b"\x89PNG")
    for expected in ("barn", "●○", "1,234", "longest function", "tasks/s", "speed-up", str(picture), "equal those"):
        assert expected in text


def test_says_so_when_farm_and_serial_run_differ(
    few_files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(ThreadPoolExecutor):
        def map(self, fn, *iterables, **options):
            return list(super().map(fn, *iterables, **options))[: few_files - 1]

    monkeypatch.setattr(show, "render_picture", lambda farm, path, width: path)
    console = Console(file=io.StringIO(), width=110)
    with Forgetful(1) as farm:
        report = run(farm, console, picture=tmp_path / "none.png")
    assert isinstance(console.file, io.StringIO)
    assert not report.same
    assert "differ from those of a serial run" in console.file.getvalue()


def test_a_failing_task_is_not_swallowed(few_files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing.py"
    monkeypatch.setattr(show, "python_files", lambda: [missing])
    with ThreadPoolExecutor(1) as farm, pytest.raises(FileNotFoundError):
        run(farm, Console(file=io.StringIO()), picture=tmp_path / "none.png")
