"""Saved farms: a private file of names and addresses."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from farmhand import errors
from farmhand.home import saved
from farmhand.home.saved import Saved


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path / "a home"))


def test_what_is_saved_is_there_again() -> None:
    assert saved.load() == Saved()
    saved.change(save=("lab", "tls://[::1]:4222"))
    saved.change(save=("barn-2", 'nats://"odd":1'), default="lab")
    assert saved.load() == Saved({"lab": "tls://[::1]:4222", "barn-2": 'nats://"odd":1'}, "lab")
    assert stat.S_IMODE(saved.file().stat().st_mode) == 0o600
    assert saved.address_of("lab") == "tls://[::1]:4222"
    saved.change(remove="lab")
    assert saved.load() == Saved({"barn-2": 'nats://"odd":1'}, "")


def test_an_unknown_name_lists_those_that_are_known() -> None:
    with pytest.raises(errors.BadAddress, match="none is saved yet"):
        saved.address_of("lab")
    saved.change(save=("lab", "nats://h:1"))
    saved.change(save=("barn", "nats://h:2"))
    for action in (lambda: saved.address_of("bran"), lambda: saved.change(default="bran")):
        with pytest.raises(errors.BadAddress, match=r"saved are barn, lab\. Did you mean 'barn'\?"):
            action()


@pytest.mark.parametrize("text", ["lab", "LAB_2", "a-b", "7"])
def test_names(text: str) -> None:
    saved.check_name(text)


@pytest.mark.parametrize("text", ["", "a b", "h:1", "nats://h", "a/b", "first.example", "localhost", "x" * 65, "ä"])
def test_what_is_no_name(text: str) -> None:
    assert saved.address_of(text) == text
    with pytest.raises(errors.BadOption, match="cannot be a farm's name"):
        saved.check_name(text)


def test_a_token_is_not_shown() -> None:
    with pytest.raises(errors.BadOption) as caught:
        saved.check_name("tls://SECRETSECRETSECRET@h:1")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("text", ["farms = 3", "[farms]\nlab = 3", "no toml"])
def test_a_file_that_somebody_has_broken(text: str) -> None:
    saved.change(save=("lab", "nats://h:1"))
    saved.file().write_text(text)
    with pytest.raises(errors.BadOption, match=r"farms\.toml: .*farmhand use"):
        saved.load()
