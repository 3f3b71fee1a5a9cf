"""The farm's own certificate authority, and the check by which a joiner knows that it talks to the right farm.

The authority is made at the first start and signs one kind of certificate: the engine's. Its pin, a hash of its public
key, travels in the join line; a joiner takes the authority that the engine presents only if the pin matches, keeps it,
and from then on TLS is verified as usual. X.509 code is slow to import, so only the functions that need it import it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import ipaddress
import os
import platform
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from farmhand import errors
from farmhand.engine.tls_probe import presented_chain
from farmhand.security.private_files import make_private_folder, read_private, write_private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_DAY: Final = dt.timedelta(days=1)
AUTHORITY_LIFE: Final = 3652 * _DAY  # ten years: a new one means joining every machine again
SERVER_LIFE: Final = 730 * _DAY  # renewed at a start, so longer than any farm stays up without one
RENEW_BEFORE: Final = 60 * _DAY
CLOCK_SKEW: Final = _DAY  # certificates start this much in the past: machines without a time service join too
ALWAYS_NAMED: Final = ("localhost", "127.0.0.1", "::1")  # tunnels and port forwards end there
PIN_PREFIX: Final = "sha256:"


class ServerFiles(NamedTuple):
    """What the engine and a joiner need. `cert` holds the leaf and then the authority, so that a joiner sees both."""

    cert: Path
    key: Path
    ca: Path
    pin: str


# ---- making certificates


def prepare(folder: Path, names: Iterable[str], *, now: dt.datetime | None = None, durable: bool = True) -> ServerFiles:
    """Make the authority and the engine's certificate in `folder`, or renew the certificate when that is due.

    names: host names and IP addresses by which the engine is reached; `ALWAYS_NAMED` and this machine's name are added.
    Renewed when it ends within `RENEW_BEFORE`, lacks a name, or is not of this authority. The engine reads the files
    again when it reloads. Raises `CredentialUnsafe`, `CredentialMalformed`, `BadOption`.
    """
    now = now or dt.datetime.now(dt.UTC)
    make_private_folder(folder)
    ca_key, ca = _load_or_make_authority(folder, now, durable)
    files = ServerFiles(folder / "server.pem", folder / "server.key", folder / "ca.pem", pin(_der(ca)))
    wanted = _clean_names(names)
    if not _is_current(files, ca, wanted, now):
        _issue(files, ca_key, ca, wanted, now, durable)
    return files


def pin(ca_cert_der: bytes) -> str:
    """`sha256:<hex>` over the authority's SubjectPublicKeyInfo: it names the key, whatever its certificate says."""
    from cryptography import x509

    return _pin_of(x509.load_der_x509_certificate(ca_cert_der))


def listen_names(host: str) -> list[str]:
    """The names under which an engine that listens on `host` can be reached; for a wildcard, every address it has."""
    if host not in ("0.0.0.0", "::", ""):  # noqa: S104 (a comparison, nothing is bound)
        return [host]
    import psutil

    found = [entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries]
    return sorted({address for address in found if _is_ip(address)})


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _clean_names(names: Iterable[str]) -> list[str]:
    wanted = {name.strip("[]").partition("%")[0].lower() for name in (*ALWAYS_NAMED, platform.node(), *names) if name}
    for name in wanted:
        if not name.isascii() or any(char in name for char in " /\\@,*"):
            raise errors.BadOption(f"{name!r} is neither a host name nor an IP address")
    return sorted(wanted)


def _load_or_make_authority(
    folder: Path, now: dt.datetime, durable: bool
) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key_path, cert_path = folder / "ca.key", folder / "ca.pem"
    if not key_path.exists() and not cert_path.exists():
        write_private(key_path, _key_pem(ec.generate_private_key(ec.SECP256R1())), durable=durable)
    try:
        key = serialization.load_pem_private_key(read_private(key_path), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise errors.CredentialMalformed(f"{key_path} is not an elliptic curve key")
        if not cert_path.exists():  # the pin is the key's, so a lost certificate can be made again
            write_private(cert_path, _pem(_sign_authority(key, now)), durable=durable)
        cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
    except (ValueError, TypeError) as error:
        raise errors.CredentialMalformed(f"the farm's authority in {folder} cannot be read: {error}") from None
    if key.public_key() != cert.public_key():
        raise errors.CredentialMalformed(f"{key_path} is not the key of {cert_path}")
    return key, cert


def _sign_authority(key: EllipticCurvePrivateKey, now: dt.datetime) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    subject = _subject("Farmhand farm authority")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _builder(subject, subject, key, now, AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(identifier, critical=False)
    return builder.sign(key, hashes.SHA256())


def _issue(files: ServerFiles, ca_key: EllipticCurvePrivateKey, ca: x509.Certificate, names: list[str],
           now: dt.datetime, durable: bool) -> None:  # fmt: skip
    """A new key and certificate for the engine."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    life = min(SERVER_LIFE, ca.not_valid_after_utc - now)
    builder = _builder(_subject("Farmhand engine"), ca.subject, key, now, life)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    # The second for the servers of a cluster, which are each other's clients.
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(authority, critical=False)
    leaf = builder.sign(ca_key, hashes.SHA256())
    # The key first: after a crash between the two the pair does not match, which _is_current notices.
    write_private(files.key, _key_pem(key), durable=durable)
    write_private(files.cert, _pem(leaf) + _pem(ca), durable=durable)


def _is_current(files: ServerFiles, ca: x509.Certificate, names: list[str], now: dt.datetime) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization

    try:
        leaf = x509.load_pem_x509_certificates(files.cert.read_bytes())[0]
        key = serialization.load_pem_private_key(read_private(files.key), None)
        leaf.verify_directly_issued_by(ca)
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (
        FileNotFoundError,
        errors.CredentialMissing,
        ValueError,
        TypeError,
        InvalidSignature,
        x509.ExtensionNotFound,
    ):
        return False
    has = {*alternatives.get_values_for_type(x509.DNSName), *map(str, alternatives.get_values_for_type(x509.IPAddress))}
    fits = key.public_key() == leaf.public_key() and has >= set(names) and len(uses) > 1
    return fits and leaf.not_valid_after_utc - now > RENEW_BEFORE


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, now: dt.datetime,
             life: dt.timedelta) -> x509.CertificateBuilder:  # fmt: skip
    from cryptography import x509

    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _subject(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    return x509.IPAddress(ipaddress.ip_address(name)) if _is_ip(name) else x509.DNSName(name)


def _pem(cert: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return cert.public_bytes(Encoding.PEM)


def _der(cert: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return cert.public_bytes(Encoding.DER)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _pin_of(cert: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    spki = cert.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PIN_PREFIX + hashlib.sha256(spki).hexdigest()


# ---- trusting a farm


def client_context(ca_pem_path: str | os.PathLike[str]) -> ssl.SSLContext:
    """TLS that trusts this farm's authority and no other, and checks the host name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=os.fspath(ca_pem_path))
    return context


def fetch_pinned_ca(
    host: str, port: int, expected_pin: str, *, handshake_first: bool = False, timeout: float = 5.0
) -> bytes:
    """The authority (PEM) of the farm at `host:port`, if it is the one that `expected_pin` names.

    handshake_first: TLS from the first byte, as `wss://` has it; the engine's own port sends one clear line before.
    timeout: seconds, for each of the three steps: connecting, the clear line, TLS.
    Raises: `WrongPin`, also when the peer has no TLS; `EngineUnreachable` when nobody answers, or not in NATS.
    Nothing secret is sent: this is to be called before the token is shown.
    """
    chain = presented_chain(host, port, handshake_first=handshake_first, timeout=timeout)
    return _pinned(chain, expected_pin, f"{host}:{port}")


def _pinned(chain: list[bytes], expected_pin: str, where: str) -> bytes:
    """The pinned authority among `chain` (leaf first) as PEM, if it vouches for the leaf today. Raises `WrongPin`."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        certs = [x509.load_der_x509_certificate(der) for der in chain]
        ca = next((c for c in certs if hmac.compare_digest(_pin_of(c), expected_pin.lower())), None)
        if ca is None:
            raise errors.WrongPin(
                f"{where} does not belong to the farm with the pin {expected_pin}: "
                "the address is wrong, or somebody is in the way"
            )
        ca.verify_directly_issued_by(ca)
        certs[0].verify_directly_issued_by(ca)
        if not ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise errors.WrongPin(f"{where}: the pinned certificate is no authority")
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise errors.WrongPin(f"{where}: its certificate was not issued by the pinned authority ({error})") from None
    now = dt.datetime.now(dt.UTC)
    for cert in (certs[0], ca):
        if not cert.not_valid_before_utc <= now <= cert.not_valid_after_utc:
            period = f"{cert.not_valid_before_utc:%Y-%m-%d} to {cert.not_valid_after_utc:%Y-%m-%d}"
            raise errors.WrongPin(f"{where}: its certificate is valid from {period}; is this machine's clock right?")
    return _pem(ca)
