"""Tasks and tests wait for one another on sockets: no sleeping, and a death shows as the end of the stream.

A task says `arrive(place)` and goes on when the test says `release()`. The test's `wait()` gives a `Visitor`, whose
`wait_gone()` returns when every process that had the visitor's socket open is dead or has closed it.

This module is imported by slots, so it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
from types import TracebackType
from typing import Any, Final, Self

PATIENCE_S: Final = 30.0  # only so that a broken product cannot hang the tests

Place = tuple[str, int]


class Visitor:
    """A task that has arrived."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")
        self.pid, self.word = pickle.load(self._file)

    def release(self) -> None:
        """Let it go on."""
        self._sock.sendall(b"\n")

    def wait_gone(self) -> None:
        """Return when no process holds the visitor's end any more."""
        with contextlib.suppress(ConnectionResetError):
            assert self._file.read() == b""

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class Meeting:
    """The test's side: a listening socket on loopback."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._server.settimeout(PATIENCE_S)
        self.visitors: list[Visitor] = []
        self.place: Place = self._server.getsockname()

    def wait(self) -> Visitor:
        """The next task that arrives."""
        sock, _ = self._server.accept()
        sock.settimeout(PATIENCE_S)
        visitor = Visitor(sock)
        self.visitors.append(visitor)
        return visitor

    def words(self, count: int) -> list[str]:
        """What the next `count` tasks say, in the order of their arrival; each goes on at once."""
        said = []
        for _ in range(count):
            visitor = self.wait()
            said.append(visitor.word)
            visitor.release()
        return said

    def nobody_came(self) -> bool:
        """Whether no task knocks at this moment."""
        self._server.settimeout(0.0)
        try:
            self._server.accept()[0].close()
        except BlockingIOError:
            return True
        finally:
            self._server.settimeout(PATIENCE_S)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        for visitor in self.visitors:
            visitor.close()
        self._server.close()


def knock(place: Place, word: Any = None) -> socket.socket:
    """Arrive and keep the connection: whoever inherits it counts as alive for the test."""
    sock = socket.create_connection(tuple(place))
    sock.sendall(pickle.dumps((os.getpid(), word)))
    return sock


def arrive(place: Place, word: Any = None) -> Any:
    """Arrive and wait to be released, or for the end of the test."""
    with knock(place, word) as sock:
        sock.recv(1)
    return word
