"""Which of two equal blocks is the second one, with little in memory."""

from __future__ import annotations

import pytest

from farmhand.core.copies import Copies
from farmhand.model import limits


def test_the_second_one_is_a_copy() -> None:
    copies = Copies(1)
    assert [copies.is_copy(name, at) for at, name in enumerate("abcacb", 1)] == [False, False, False, True, True, True]


def test_blocks_without_an_id_are_none() -> None:
    copies = Copies(1)
    assert not copies.is_copy("", 1)
    assert not copies.is_copy("", 2)


def test_what_was_not_read_is_missing_once() -> None:
    copies = Copies(100)
    assert not copies.missing(-1), "nobody stores it again"
    assert not copies.missing(99)
    assert copies.missing(89) == range(90, 100)
    copies.on_earlier(range(90, 100), {"a": 95})
    assert not copies.missing(89)
    assert copies.is_copy("a", 120)
    assert not copies.is_copy("b", 121)
    assert copies.missing(80) == range(81, 90)


def test_ids_of_the_newest_blocks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BLOCK_IDS_MAX", 3)
    copies = Copies(1)
    for at, name in enumerate("abcde", 1):
        assert not copies.is_copy(name, at)
    assert copies.missing(0) == range(1, 3)
    assert copies.is_copy("c", 6)
    copies.on_earlier(range(1, 3), {"a": 1, "b": 2})
    assert copies.is_copy("a", 7)
    assert copies.is_copy("e", 8)
