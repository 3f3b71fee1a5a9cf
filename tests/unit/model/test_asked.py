from __future__ import annotations

import pytest

from farmhand import errors
from farmhand.model.asked import Asked, understand

KNOWN = {"k0123456789ab", "k0199999999ab", "nightly"}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", Asked()),
        ("k0123456789ab", Asked("k0123456789ab")),
        ("k012", Asked("k0123456789ab")),
        ("k012/17", Asked("k0123456789ab", 17)),
        ("nightly/score", Asked("nightly", 0, "score")),
        ("f00000000000a/1", Asked("f00000000000a", 1)),  # nobody here knows it, and it can be nothing else
        ("score", Asked(name="score")),
        ("train/eval", Asked(name="train/eval")),
        ("k", Asked(name="k")),
    ],
)
def test_who_is_meant(text: str, meant: Asked) -> None:
    assert understand(text, KNOWN) == meant


def test_two_that_begin_so() -> None:
    with pytest.raises(errors.BadOption, match="k0123456789ab, k0199999999ab"):
        understand("k01/3", KNOWN)


def test_what_is_wanted() -> None:
    assert Asked().wants("f", 3)
    assert Asked("k1", 3).wants("f", 3)
    assert not Asked("k1", 3).wants("f", 4)
    assert not Asked(name="g").wants("f", 3)
    assert (str(Asked("k1", 3)), str(Asked("k1", 0, "f")), str(Asked("k1"))) == ("k1/3", "k1/f", "k1")
