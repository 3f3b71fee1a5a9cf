"""Looks after the disk under the engine's store: tells its supervisor when the engine must be started again.

A server that met a really full disk answers nothing on the stream that met it, also when there is space again, until it
is restarted; what it had acknowledged is there then. And the limit that keeps a server from meeting a full disk is set
at its start, so one that was started on a nearly full disk would stay small for ever. Both are cured by a restart, which
costs everybody some hundred milliseconds. The first shows in the server's log, both need a look at the free space; a look
a second costs microseconds.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from farmhand.model.limits import MB

log = logging.getLogger("farmhand.host")

LOOK_S: Final = 1.0
SPACE_SHARE: Final = 0.1  # of the disk must be free before a server that met its end is started again,
SPACE_BYTES_MAX: Final = 64 * MB  # and never more than this: it is the room for some thousand results
PATIENCE_S: Final = 10.0  # then it is started again without space: what fills the disk may be its own remains
GROWTH: Final = 2  # a limit is worth a restart when so many times as much is free
_SIGNS: Final = re.compile(rb"no space left|disk full|[Cc]ritical write error|disk quota exceeded")
_READ_BYTES: Final = 4 * MB  # of new log lines in one look


class DiskWatch:
    """Calls `restart(why)`, on a thread of its own, when the engine should be started again. `limit()`: its store's, in bytes."""

    def __init__(self, store: Path, log_path: Path, limit: Callable[[], int], restart: Callable[[str], None]) -> None:
        self._store = store
        self._log = log_path
        self._limit = limit
        self._restart = restart
        self._read_to = log_path.stat().st_size if log_path.exists() else 0
        self._hurt = False
        self._looks = 0  # since it was hurt
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin looking."""
        threading.Thread(target=self._run, name="farmhand-disk", daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                why = self.look()
            except OSError as error:
                log.warning("the engine's disk cannot be looked at: %s", error)
                continue
            if why:
                log.warning("the engine is started again: %s", why)
                self._restart(why)

    def look(self) -> str:
        """Why the engine should be started again now; empty when it should not."""
        if not self._hurt and self._signs_of_harm():
            self._hurt, self._looks = True, 0
            log.error("the disk under %s is full; the engine is started again when there is space", self._store)
        disk = shutil.disk_usage(self._store)
        if self._hurt:
            self._looks += 1
            space = disk.free >= min(disk.total * SPACE_SHARE, SPACE_BYTES_MAX)
            if not space and self._looks * LOOK_S < PATIENCE_S:
                return ""
            self._hurt = False
            return f"its disk was full{' and has space again' if space else ''}"
        limit = self._limit()
        if limit and disk.free > GROWTH * limit + SPACE_BYTES_MAX:
            return f"its store may take {limit // MB} MB, and {disk.free // MB} MB are free by now"
        return ""

    def _signs_of_harm(self) -> bool:
        """Whether what the log says since the last look tells of a full disk."""
        size = self._log.stat().st_size if self._log.exists() else 0
        if size == self._read_to:
            return False
        with self._log.open("rb") as file:
            file.seek(max(self._read_to, size - _READ_BYTES) if size > self._read_to else 0)  # smaller: a new log
            text = file.read()
        self._read_to = size
        return _SIGNS.search(text) is not None
