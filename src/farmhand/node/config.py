"""What a node is told at its start."""

from __future__ import annotations

from pathlib import Path

import msgspec

from farmhand.engine.options import Options
from farmhand.model import limits


class Config(msgspec.Struct, kw_only=True):
    """What a node is told at its start."""

    node: str  # id, safe in a subject
    name: str  # for people
    slots: int
    cache: Path
    spool: Path  # for large values under way
    capabilities: dict[str, str]
    grace: float = limits.GRACE_S
    options: Options
    in_process: bool = False  # the slot is a thread here: any child process is somebody else's
