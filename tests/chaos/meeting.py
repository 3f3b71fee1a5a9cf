"""Where a test meets its tasks: a socket in the file system, which network namespaces do not separate."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

from tests.integration.executor.meeting import PATIENCE_S, Meeting


class PathMeeting(Meeting):
    """A `Meeting` for tasks that call `work.visit(place, word)`."""

    def __init__(self) -> None:
        super().__init__()
        self._server.close()
        self._folder = tempfile.TemporaryDirectory(prefix="farmhand-meet-")  # a short path: sockets take 107 bytes
        self.path = str(Path(self._folder.name) / "s")
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen(256)
        self._server.settimeout(PATIENCE_S)

    def __exit__(self, *problem: object) -> None:
        super().__exit__(None, None, None)
        self._folder.cleanup()
