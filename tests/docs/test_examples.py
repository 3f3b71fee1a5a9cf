"""What the pages show is run as it stands there."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.markdown import ROOT, RUN_LANGUAGES, Block, blocks, page_id, pages
from tests.docs.pagerun import PageRun, commands, matches

NOT_RUN_MAX = 12  # blocks that need another machine, root, or minutes
_WITH_CODE = [page for page in pages() if any(block.runs for block in blocks(page))]


def starts_farms(page: Path) -> bool:
    """Whether the page's commands start a farm: then it gets a machine of its own, else the farm that pages share."""
    return any(b.runs and b.language != "python" and "farmhand " in b.text for b in blocks(page))


@pytest.mark.parametrize("page", _WITH_CODE, ids=page_id)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    env = request.getfixturevalue("own_home" if starts_farms(page) else "shared_farm")
    folder = tmp_path / "work"
    folder.mkdir()
    with PageRun(folder, env) as run:
        for block in blocks(page):
            if block.runs:
                run.run(block, f"{page}:{block.line}")


def all_blocks() -> list[tuple[Path, Block]]:
    return [(page, block) for page in pages() for block in blocks(page)]


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    skipped = [(page_id(page), block.line, block.reason) for page, block in all_blocks() if block.reason]
    assert len(skipped) <= NOT_RUN_MAX, skipped
    assert all(len(reason.split()) >= 3 for _, _, reason in skipped), skipped


def test_every_block_names_its_language() -> None:
    known = {*RUN_LANGUAGES, "text", "mermaid", "json", "toml", "dockerfile", "yaml"}
    assert [(page_id(page), block.line) for page, block in all_blocks() if block.language not in known] == []


def test_what_is_shown_as_a_file_is_used() -> None:
    for page, block in all_blocks():
        if block.file:
            stem = Path(block.file).stem
            later = [b.text for b in blocks(page) if b.line > block.line and b.runs]
            assert any(stem in text or Path(block.file).parts[0] in text for text in later), (page_id(page), block.file)


def test_how_output_is_compared() -> None:
    assert matches("a ... c\n...\ne", "a b c\nd\n  e \n")
    assert not matches("a\nb", "b\na")
    assert commands("$ one \\\n  two\nout\n$ three") == [("one \\\n  two", "out\n"), ("three", "")]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("primes.py", ["--below", "300000"], "primes below 300,000: 25,997"),
        ("failures.py", [], "dies: TaskCrashed: ...\n...\ntakes_too_long: TaskTimedOut: ...\nand the farm goes on: 6"),
        ("mandelbrot.py", ["--size", "120"], "...mandelbrot.png..."),
        (
            "antpool_sum.py",
            ["1003", "FARM"],
            "by_submit 502503 in ...\nby_callback 502503 in ...\nby_map 502503 in ...",
        ),
        (
            "antpool_pictures.py",
            ["2", "FARM"],
            "threads 2 pictures, ...\nprocesses 2 pictures, ...\nfarm 2 pictures, ...",
        ),
    ],
    ids=["primes", "failures", "mandelbrot", "antpool_sum", "antpool_pictures"],
)
def test_an_example_runs(
    name: str, arguments: list[str], expected: str, shared_farm: dict[str, str], tmp_path: Path
) -> None:
    arguments = [shared_farm["FARMHAND_FARM"] if word == "FARM" else word for word in arguments]
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env=shared_farm, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert matches(expected, done.stdout), done.stdout


def test_every_example_is_run() -> None:
    runs = inspect.getsource(sys.modules[__name__])
    assert [path.name for path in (ROOT / "examples").glob("*.py") if f'"{path.name}",' not in runs] == []
