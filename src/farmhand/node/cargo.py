"""What the agent keeps with a message that it holds."""

from __future__ import annotations

import asyncio

import msgspec


class Cargo(msgspec.Struct):
    """What the agent keeps with a held message."""

    frame: bytes | memoryview
    ack: str
    files: dict[int, str] = {}
    timers: list[asyncio.TimerHandle] = []
    slot: int = -1  # that runs it, or did
    name: str = ""  # of this run, in the names of its large values: another run of the same attempt has another
