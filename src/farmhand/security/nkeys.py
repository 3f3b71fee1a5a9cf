"""NATS user keys: an Ed25519 pair in NATS's own spelling.

A public key is `U...`: base32 of a prefix byte, the 32 key bytes and a CRC. A seed is `SU...`: two prefix bytes (that
it is a seed, and of what), the 32 seed bytes and a CRC. Only user keys exist here; the farm has no operators.
Source: the nkeys specification of NATS.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING, Final

from farmhand import errors
from farmhand.security.private_files import read_private, write_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SEED: Final = 18 << 3  # the letter S
_USER: Final = 20 << 3  # the letter U
_KEY_BYTES: Final = 32
_SEED_HEAD: Final = bytes([_SEED | _USER >> 5, (_USER & 31) << 3])
_USER_HEAD: Final = bytes([_USER])


class KeyPair:
    """A user's key. `public` may be shown to anybody; `seed` is the secret and is never part of `repr`."""

    __slots__ = ("_private", "_raw", "public")

    def __init__(self, raw_seed: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._raw = raw_seed
        self._private: Ed25519PrivateKey = Ed25519PrivateKey.from_private_bytes(raw_seed)
        self.public: str = _encode(_USER_HEAD, self._private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> KeyPair:
        """A new pair from the system's random source."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_seed(cls, seed: str) -> KeyPair:
        """The pair that `seed` (`SU...`) stands for. Raises `CredentialMalformed`, which does not show the seed."""
        return cls(_decode(seed, _SEED_HEAD, "a user seed (SU...)"))

    @property
    def seed(self) -> str:
        """The secret (`SU...`)."""
        return _encode(_SEED_HEAD, self._raw)

    def sign(self, nonce: bytes) -> str:
        """The signature of the server's nonce as CONNECT's `sig` wants it: base64url without padding."""
        return base64.urlsafe_b64encode(self._private.sign(nonce)).rstrip(b"=").decode()

    def __repr__(self) -> str:
        return f"KeyPair({self.public})"


def check_public(public: str) -> None:
    """Raise `CredentialMalformed` unless `public` is a well-formed user key (`U...`, 56 characters)."""
    _decode(public, _USER_HEAD, "a public user key (U...)")


def store_seed(path: Path, pair: KeyPair, *, replace: bool = False, durable: bool = True) -> None:
    """Write the seed to `path`, mode 0600, in one step. Raises `FileExistsError` unless `replace`."""
    write_private(path, pair.seed.encode() + b"\n", replace=replace, durable=durable)


def load_seed(path: Path) -> KeyPair:
    """Read what `store_seed` wrote. Raises `CredentialMissing`, `CredentialUnsafe`, `CredentialMalformed`."""
    text = read_private(path).decode("ascii", errors="replace").strip()
    try:
        return KeyPair.from_seed(text)
    except errors.CredentialMalformed as error:
        raise errors.CredentialMalformed(f"{path}: {error}") from None


def _encode(head: bytes, key: bytes) -> str:
    body = head + key
    return base64.b32encode(body + _crc(body)).rstrip(b"=").decode()


def _decode(text: str, head: bytes, wanted: str) -> bytes:
    """The 32 key bytes in `text`. The message never holds the text itself: it may be a secret."""
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise errors.CredentialMalformed(f"not {wanted}: its characters are not base32") from None
    if len(raw) != len(head) + _KEY_BYTES + 2:
        raise errors.CredentialMalformed(f"not {wanted}: it has the wrong length")
    if raw[: len(head)] != head:
        raise errors.CredentialMalformed(f"not {wanted}: it is a key of another kind")
    if raw[-2:] != _crc(raw[:-2]):
        raise errors.CredentialMalformed(f"not {wanted}: its check sum is wrong, so it was mistyped or cut off")
    return raw[len(head) : -2]


def _crc(data: bytes) -> bytes:
    """CRC-16/XMODEM, little-endian, as nkeys has it."""
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")
