"""The name of code by its content."""

from __future__ import annotations

import hashlib


def content_hash(blob: bytes) -> str:
    """The name of a code blob or bundle: 32 hexadecimal digits of BLAKE2b."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()
