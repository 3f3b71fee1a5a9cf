"""The farm's authority: what it makes, and when it makes it anew."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from farmhand import errors
from farmhand.security import authority
from farmhand.security.authority import ServerFiles, client_context, listen_names, pin, prepare

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def names_in(files: ServerFiles) -> set[str]:
    leaf = x509.load_pem_x509_certificates(files.cert.read_bytes())[0]
    value = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*value.get_values_for_type(x509.DNSName), *map(str, value.get_values_for_type(x509.IPAddress))}


def make(folder: Path, names: tuple[str, ...] = ("server",), now: dt.datetime = NOW) -> ServerFiles:
    return prepare(folder, names, now=now, durable=False)


def test_what_is_made(tmp_path: Path) -> None:
    files = make(tmp_path / "tls", ("server", "10.0.0.5", "2001:db8::1"))
    assert names_in(files) >= {"localhost", "127.0.0.1", "::1", "server", "10.0.0.5", "2001:db8::1"}
    leaf, ca = x509.load_pem_x509_certificates(files.cert.read_bytes())
    assert files.ca.read_bytes() == ca.public_bytes(Encoding.PEM)
    assert files.pin == pin(ca.public_bytes(Encoding.DER))
    assert files.pin.startswith("sha256:")
    leaf.verify_directly_issued_by(ca)
    assert ca.not_valid_after_utc - NOW > dt.timedelta(days=3650)
    assert leaf.not_valid_before_utc < NOW, "a joiner's clock may be behind"
    assert {p.stat().st_mode & 0o777 for p in (files.cert, files.key, files.ca, tmp_path / "tls/ca.key")} == {0o600}
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    first = make(tmp_path)
    before = first.cert.read_bytes()
    assert make(tmp_path) == first
    assert make(tmp_path, ()) == first, "a name less is no reason"
    assert first.cert.read_bytes() == before


@pytest.mark.parametrize("later", [authority.SERVER_LIFE, authority.SERVER_LIFE - dt.timedelta(days=59)])
def test_a_certificate_near_its_end_is_renewed_under_the_same_pin(tmp_path: Path, later: dt.timedelta) -> None:
    first = make(tmp_path)
    before = first.cert.read_bytes()
    assert make(tmp_path, now=NOW + later).pin == first.pin
    assert first.cert.read_bytes() != before


def test_a_new_name_renews_it(tmp_path: Path) -> None:
    first = make(tmp_path)
    assert make(tmp_path, ("server", "other")).pin == first.pin
    assert names_in(first) >= {"server", "other"}


def test_a_certificate_that_does_not_match_its_key_is_renewed(tmp_path: Path) -> None:
    files = make(tmp_path / "one")
    other = make(tmp_path / "two")
    files.key.write_bytes(other.key.read_bytes())
    make(tmp_path / "one")
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(files.cert, files.key)


def test_a_lost_authority_certificate_is_made_again_with_its_pin(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.ca.unlink()
    assert make(tmp_path).pin == first.pin


def test_a_lost_authority_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(errors.CredentialMissing, match=r"ca\.key"):
        make(tmp_path)


def test_a_damaged_authority_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "ca.pem").write_bytes(b"nonsense")
    with pytest.raises(errors.CredentialMalformed, match="authority"):
        make(tmp_path)


def test_an_authority_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "ca.key").chmod(0o644)
    with pytest.raises(errors.CredentialUnsafe):
        make(tmp_path)


@pytest.mark.parametrize("name", ["a b", "*.example.org", "a/b", "é"])
def test_a_name_that_cannot_be_in_a_certificate_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.BadOption):
        make(tmp_path, (name,))


def test_a_client_trusts_this_authority_only(tmp_path: Path) -> None:
    context = client_context(make(tmp_path).ca)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509_ca"] == 1


def test_the_names_of_a_wildcard_are_all_addresses() -> None:
    assert listen_names("10.0.0.5") == ["10.0.0.5"]
    assert "127.0.0.1" in listen_names("0.0.0.0")
