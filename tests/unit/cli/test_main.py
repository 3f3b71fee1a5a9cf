from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from farmhand.cli.exits import Exit
from farmhand.cli.main import _COMMANDS, cli, main
from farmhand.model.version import VERSION

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"
SHELLS = ("bash", "zsh", "fish")


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return int(ended.value.code)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path / "a home"))
    monkeypatch.delenv("FARMHAND_FARM", raising=False)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == Exit.OK
    assert capsys.readouterr().out == f"farmhand {VERSION}\n"


@pytest.mark.parametrize("name", _COMMANDS)
def test_each_command_explains_itself_and_is_on_the_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(name, "--help") == Exit.OK
    assert f"farmhand {name}" in capsys.readouterr().out
    page = PAGE.read_text()
    assert f"## farmhand {name}" in page
    context = cli.make_context("farmhand", [name], resilient_parsing=True)
    command = cli.get_command(context, name)
    assert command is not None
    for parameter in command.params:
        for option in parameter.opts:
            assert not option.startswith("--") or f"`{option}" in page, option


def test_wrong_usage_is_2_and_json_says_so_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("nonsense") == Exit.USAGE
    assert call("up", "--json", "--nodes", "x") == Exit.USAGE
    said = json.loads(capsys.readouterr().out)
    assert said["kind"] == "BadParameter"
    assert "nodes" in said["error"]


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("status") == Exit.NOT_RUNNING
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("farmhand: No farm of yours runs")
    assert shown.err.count("\n") == 1


def test_an_error_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("status", "--json") == Exit.NOT_RUNNING
    shown = capsys.readouterr()
    assert json.loads(shown.out).keys() == {"error", "kind"}
    assert shown.err == ""


def test_debug_shows_where_it_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--debug", "status") == Exit.NOT_RUNNING
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("completion", shell) == Exit.OK
    assert "_FARMHAND_COMPLETE" in capsys.readouterr().out


def test_completion_completes() -> None:
    environment = {**os.environ, "_FARMHAND_COMPLETE": "bash_complete", "COMP_WORDS": "farmhand jo", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "farmhand.cli"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "plain,join\n"


LOADED_BY_HELP = """
import sys, farmhand.cli.main
try:
    farmhand.cli.main.main(["--help"])
except SystemExit:
    slow = ("farmhand.cli.", "farmhand.client", "rich", "asyncio", "psutil")
    print([name for name in sys.modules if name.startswith(slow)])
"""


def test_help_loads_no_subcommand_and_no_engine() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED_BY_HELP], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['farmhand.cli.main']"
