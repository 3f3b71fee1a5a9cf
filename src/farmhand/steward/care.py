"""What those who look after sessions need of their steward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farmhand.engine.connection import Connection
from farmhand.engine.stored import Publisher
from farmhand.model.needs import Lane


class Care:
    """A connection, a publisher, and ways to start things and to make lanes."""

    def __init__(self, connection: Connection, publisher: Publisher, spawn: Callable[[Any], object],
                 need_lane: Callable[[Lane], Any]) -> None:  # fmt: skip
        self.connection = connection
        self.publisher = publisher
        self.spawn = spawn
        self.need_lane = need_lane  # a coroutine that makes a lane and returns how many slots serve it
