from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from farmhand import errors
from farmhand.cli.exits import Exit, exit_of

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadAddress("x"), Exit.USAGE),
        (errors.BadOption("x"), Exit.USAGE),
        (errors.FarmNotRunning(), Exit.NOT_RUNNING),
        (errors.FarmRunning(), Exit.RUNNING),
        (errors.EngineUnreachable(), Exit.UNREACHABLE),
        (errors.PortInUse(), Exit.START_FAILED),
        (errors.ServerTooOld(), Exit.VERSION),
        (errors.WrongPin(), Exit.WRONG_PIN),
        (errors.CredentialRefused(), Exit.REFUSED),
        (errors.PlaintextRefused(), Exit.REFUSED),
        (errors.EngineFull(), Exit.FULL),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (errors.TaskCrashed(), Exit.FAILED),
        (ValueError(), Exit.FAILED),
    ],
)
def test_each_error_has_its_code(error: BaseException, code: Exit) -> None:
    assert exit_of(error) is code


def test_every_error_of_engine_and_security_has_a_code_of_its_own() -> None:
    """Only bases, and what no command meets, end as an unnamed failure."""
    unnamed = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.EngineError | errors.SecurityError) and exit_of(kind("x")) is Exit.FAILED
    }
    assert unnamed == {"EngineError", "StoreFailed", "Deposed"}


def test_the_page_has_them_all() -> None:
    text = PAGE.read_text()
    for code in Exit:
        assert f"| {code.value} | `{code.name}` |" in text
