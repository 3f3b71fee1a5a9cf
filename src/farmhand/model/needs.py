"""What a task needs and what a node can do, and whether the one serves the other.

A need is a name with an optional comparison: `latex`, `gpu=1`, `mem=8GiB`, `python=3.11`, `os=linux`, `python>=3.12`.
For an amount (`cpus`, `mem`, `gpu`) a node must have at least that much. `cpus` are granted and taken back: a task with
`cpus=2` occupies two slots. A task's `mem` is also the limit at which it is stopped. All others must match.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from farmhand import errors
from farmhand.model.ids import LaneId

_FORM: Final = re.compile(r"^\s*([a-z][a-z0-9_.-]*)\s*(?:(>=|<=|==|=|>|<)\s*(.+?))?\s*$", re.IGNORECASE)
_AMOUNT_MAX: Final = 1e18
_DIGITS_MAX: Final = 18  # of one part of a version
_SIZE: Final = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgt]i?b?|b)?$", re.IGNORECASE)
_UNITS: Final = {"": 1, "b": 1, "k": 1000, "ki": 1024, "m": 1000**2, "mi": 1024**2, "g": 1000**3, "gi": 1024**3,
                 "t": 1000**4, "ti": 1024**4}  # fmt: skip


class Need(msgspec.Struct, frozen=True, order=True):
    """One requirement: a capability's name, a comparison (`""` for plain presence) and a value as written."""

    name: str
    op: str = ""
    value: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.op}{self.value}"


def parse_need(text: str) -> Need:
    """Read one need. Raises `BadNeed` naming the text."""
    match = _FORM.match(text)
    if match is None:
        raise errors.BadNeed(f"{text!r} is not a need; write for example 'cpus=2', 'mem=8GiB' or 'latex'")
    name, op, value = match.group(1).lower(), match.group(2) or "", match.group(3) or ""
    if name in ("cpus", "mem") and quantity(value) is None:
        raise errors.BadNeed(f"{text!r}: {name} takes an amount, for example {name}={'8GiB' if name == 'mem' else '2'}")
    return Need(name, "=" if op == "==" else op, value)


def quantity(text: str) -> float | None:
    """The number in `2`, `0.5`, `8GiB`; None when it is none, or beyond every machine. Sizes are in bytes."""
    match = _SIZE.match(text.strip())
    if match is None:
        return None
    unit = (match.group(2) or "").lower().removesuffix("b") if (match.group(2) or "").lower() != "b" else "b"
    amount = float(match.group(1)) * _UNITS[unit]
    return amount if amount <= _AMOUNT_MAX else None


def _version(text: str) -> tuple[int, ...] | None:
    parts = text.split(".")
    return tuple(int(p) for p in parts) if all(p.isdecimal() and len(p) <= _DIGITS_MAX for p in parts) else None


def _compare(have: str, op: str, want: str) -> bool:
    left: object
    right: object
    left, right = _version(have), _version(want)
    if left is None or right is None:
        left, right = quantity(have), quantity(want)
    if left is None or right is None:
        left, right = have.lower(), want.lower()
    match op:
        case ">=":
            return left >= right  # type: ignore[operator]
        case "<=":
            return left <= right  # type: ignore[operator]
        case ">":
            return left > right  # type: ignore[operator]
        case "<":
            return left < right  # type: ignore[operator]
        case _:
            return left == right


def lacking(need: Need, capabilities: dict[str, str]) -> str:
    """Why a node with these capabilities does not serve the need, or an empty string when it does."""
    have = capabilities.get(need.name)
    if have is None:
        return f"has no {need.name}"
    if not need.op:
        return ""
    if need.op == "=" and quantity(need.value) is not None and need.name in COUNTED:
        have_n, want_n = quantity(have), quantity(need.value)
        if have_n is not None and want_n is not None and have_n >= want_n:
            return ""
        return f"has only {need.name}={have}"
    return "" if _compare(have, need.op, need.value) else f"has {need.name}={have}, not {need.op}{need.value}"


COUNTED: Final = ("cpus", "mem", "gpu")
PROCESS: Final = "process"  # a slot of its own process: it can be killed, and a task can have one to itself


class Lane(msgspec.Struct, frozen=True):
    """A work queue for one requirement set. `python` is the client's minor version; commands leave it empty."""

    needs: tuple[Need, ...] = ()
    python: str = ""
    priority: int = 0

    @property
    def id(self) -> LaneId:
        """The same for equal requirement sets, whoever asks."""
        text = f"{self.python}|{self.priority}|" + ",".join(str(need) for need in sorted(self.needs))
        return LaneId(hashlib.blake2b(text.encode(), digest_size=6).hexdigest())

    @property
    def cpus(self) -> float:
        """Slots that one task of this lane occupies, at least one."""
        amounts = [quantity(n.value) or 1.0 for n in self.needs if n.name == "cpus" and n.op in ("=", ">=")]
        return max([1.0, *amounts])

    @property
    def memory(self) -> int:
        """Bytes that a task of this lane may use; 0 when it has stated none."""
        amounts = [quantity(n.value) or 0.0 for n in self.needs if n.name == "mem" and n.op in ("=", ">=")]
        return int(max([0.0, *amounts]))

    def lacks(self, capabilities: dict[str, str], pythons: tuple[str, ...]) -> list[str]:
        """Everything a node lacks for this lane, in words; empty when it can serve it."""
        missing = [reason for need in self.needs if (reason := lacking(need, capabilities))]
        if self.python and self.python not in pythons:
            missing.append(f"has Python {', '.join(pythons) or 'none'}, not {self.python}")
        return missing
