"""Which tasks a person means who asks the farm for some."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

import msgspec

from farmhand import errors

_SESSION: Final = re.compile(r"[kfn][0-9a-f]{12}")


class Asked(msgspec.Struct, frozen=True):
    """Tasks of a session, of a number in it, of a name. What is empty or 0 does not matter."""

    session: str = ""
    number: int = 0
    name: str = ""

    def wants(self, name: str, number: int) -> bool:
        """Whether a task of the session is meant."""
        return (not self.number or number == self.number) and (not self.name or name == self.name)

    def __str__(self) -> str:
        return f"{self.session}/{self.number or self.name}" if self.number or self.name else self.session


def understand(text: str, sessions: Collection[str]) -> Asked:
    """What `SESSION/NUMBER`, `SESSION/NAME`, a session or the beginning of its id, or else a task's name means.

    `sessions` are those that are known. Raises: `BadOption` when several of them begin so.
    """
    word, _, task = text.partition("/")
    session = _session(word, sessions)
    if not session:
        return Asked(name=text)  # a name may have a slash in it
    return Asked(session, int(task) if task.isdecimal() else 0, "" if task.isdecimal() else task)


def _session(word: str, sessions: Collection[str]) -> str:
    """The session that `word` is or begins; empty when there is none."""
    if word in sessions or _SESSION.fullmatch(word):
        return word
    found = sorted(name for name in sessions if name.startswith(word)) if len(word) > 1 else []
    if len(found) > 1:
        more = " ..." if len(found) > 5 else ""
        raise errors.BadOption(f"{word!r} begins the ids of {len(found)} sessions: {', '.join(found[:5])}{more}")
    return found[0] if found else ""
