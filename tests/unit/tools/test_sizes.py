from __future__ import annotations

from pathlib import Path

import pytest

import sizes


def function(lines: int, docstring: int = 0) -> str:
    """A function of so many lines, of which the docstring's do not count."""
    text = ['    """A', *["    text"] * (docstring - 2), '    """'] if docstring else []
    return "\n".join(["def plough():", *text, *["    x = 1"] * (lines - 1)]) + "\n"


@pytest.mark.parametrize(("source", "count"), [(function(50), 0), (function(51), 1), (function(50, docstring=30), 0)])
def test_a_function_has_fifty_lines_without_its_docstring(tmp_path: Path, source: str, count: int) -> None:
    path = tmp_path / "field.py"
    path.write_text("\n" + source)
    offences = list(sizes.check_module(path))
    assert [(offence.path, offence.line) for offence in offences] == [(path, 2)] * count


def test_nested_functions_and_methods_are_measured_too(tmp_path: Path) -> None:
    path = tmp_path / "field.py"
    body = "".join(f"    {line}\n" for line in function(51).splitlines())
    path.write_text("class Farm:\n" + body)
    assert [offence.line for offence in sizes.check_module(path)] == [2]


def test_a_module_has_five_hundred_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "field.py").write_text("x = 1\n" * 500)
    assert sizes.main([str(tmp_path)]) == 0
    (tmp_path / "field.py").write_text("x = 1\n" * 501)
    assert sizes.main([str(tmp_path)]) == 1
    assert f"{tmp_path / 'field.py'}:501: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["utils.py", "helpers.py", "common/__init__.py"])
def test_a_drawer_for_everything_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    assert sizes.main([str(tmp_path)]) == 1


def test_without_a_folder_it_says_how_to_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert sizes.main([]) == 2
    assert "usage" in capsys.readouterr().err
