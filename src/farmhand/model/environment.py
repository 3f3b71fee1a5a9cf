"""What an environment for tasks is made of. The text of a recipe is all that its hash knows."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

OLDEST: Final = (3, 11)  # that Farmhand runs on
_VERSION: Final = re.compile(r"3\.\d{1,3}(\.\d{1,3})?")


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What `uv` is given, and who asked for it. As JSON it travels beside the work, by its hash, as code does.

    requirements, constraints: lines as in a requirements file. python: `3.12` or `3.12.4`; empty: the node's own.
    client: the minor version of the client, which values and functions must be readable for.
    """

    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    python: str = ""
    client: str = ""

    @property
    def minor(self) -> str:
        """The wanted Python without its patch level."""
        return ".".join(self.python.split(".")[:2])

    @property
    def foreign(self) -> bool:
        """Whether it runs another minor version than the client: bytecode cannot go from one to the other."""
        return bool(self.python) and self.minor != self.client

    def key(self, *more: str) -> str:
        """The same for all that are built alike; `more` is what the place adds."""
        parts = (self.requirements, self.constraints, self.python, more)
        return hashlib.blake2b(msgspec.json.encode(parts), digest_size=12).hexdigest()


def is_version(text: str) -> bool:
    """Whether it has the form of a version of Python."""
    return _VERSION.fullmatch(text.strip()) is not None


def too_old(version: str) -> bool:
    """Whether Farmhand does not run on it."""
    return tuple(int(part) for part in version.split(".")[:2]) < OLDEST
