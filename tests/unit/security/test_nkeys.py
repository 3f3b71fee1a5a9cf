"""Keys in NATS's spelling."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farmhand import errors
from farmhand.security.nkeys import KeyPair, check_public, load_seed, store_seed

# Made with NATS's own implementation from the seed bytes 0, 1, ... 31.
SEED = "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y"
PUBLIC = "UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK"
SIGNATURE = "-HTq4d6DDHVNb8MsTRAZtSIa0vXA_yuZblwTA7JT5wYzmKBxJ2wpYfjHh7hcptZlidbVw_6ZLyubjm_yDk-OCQ"  # of b"nonce"


def test_the_spelling_is_that_of_nats() -> None:
    pair = KeyPair.from_seed(SEED)
    assert pair.public == PUBLIC
    assert pair.seed == SEED


def test_a_generated_pair_survives_its_seed() -> None:
    pair = KeyPair.generate()
    again = KeyPair.from_seed(pair.seed)
    assert again.public == pair.public
    assert again.sign(b"nonce") == pair.sign(b"nonce")
    assert KeyPair.generate().public != pair.public


def test_a_signature_is_base64url_without_padding() -> None:
    signature = KeyPair.from_seed(SEED).sign(b"nonce")
    assert signature == SIGNATURE
    assert len(base64.urlsafe_b64decode(signature + "==")) == 64


def test_repr_shows_no_secret() -> None:
    pair = KeyPair.from_seed(SEED)
    assert SEED not in repr(pair)
    assert PUBLIC in repr(pair)


@pytest.mark.parametrize(
    "text",
    ["", "S", SEED[:-1], SEED[:-1] + "A", SEED.lower(), PUBLIC, "SAAA" + SEED[4:], SEED + "\n" + SEED, "é" * 58],
)
def test_a_damaged_seed_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(errors.CredentialMalformed) as caught:
        KeyPair.from_seed(text)
    assert len(text) < 5 or text not in str(caught.value)


@given(st.text(max_size=80))
def test_no_text_breaks_the_check_of_a_public_key(text: str) -> None:
    with pytest.raises(errors.CredentialMalformed):
        check_public(text)


@given(st.integers(0, 55), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_one_wrong_letter_is_noticed(at: int, letter: str) -> None:
    text = PUBLIC[:at] + letter + PUBLIC[at + 1 :]
    if text == PUBLIC:
        check_public(text)
    else:
        with pytest.raises(errors.CredentialMalformed):
            check_public(text)


def test_a_stored_seed_is_private_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "client.nk"
    pair = KeyPair.generate()
    store_seed(path, pair)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_seed(path).public == pair.public
    assert [p.name for p in tmp_path.iterdir()] == ["client.nk"], "no draft is left behind"


def test_a_seed_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "client.nk"
    first, second = KeyPair.generate(), KeyPair.generate()
    store_seed(path, first)
    with pytest.raises(FileExistsError):
        store_seed(path, second)
    assert load_seed(path).public == first.public
    store_seed(path, second, replace=True)
    assert load_seed(path).public == second.public
    assert [p.name for p in tmp_path.iterdir()] == ["client.nk"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_seed_that_others_have_access_to_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "client.nk"
    store_seed(path, KeyPair.generate())
    path.chmod(mode)
    with pytest.raises(errors.CredentialUnsafe, match=f"{mode:04o}.*chmod 600"):
        load_seed(path)


def test_a_missing_and_a_damaged_file_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "client.nk"
    with pytest.raises(errors.CredentialMissing, match=r"client\.nk"):
        load_seed(path)
    store_seed(path, KeyPair.generate())
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(errors.CredentialMalformed, match=r"client\.nk"):
        load_seed(path)
