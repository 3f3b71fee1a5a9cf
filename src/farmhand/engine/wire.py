"""The NATS client protocol without any IO: bytes in, callbacks out.

Theory of operation. The reader owns the memory that the socket receives into. Control lines and small payloads land in
one scratch buffer and are copied out once. A payload that is not yet complete when its line is parsed and that is large
gets a buffer of its own, into which the socket receives directly, so a megabyte travels without a second copy.

Rule 1: nothing here knows a socket, a loop or a clock.  Rule 2: a malformed line raises `ProtocolViolation`; the owner
closes the connection, because after it no byte can be trusted.

Source: the client protocol reference of NATS, verbs INFO, MSG, HMSG, PING, PONG, +OK, -ERR.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

SCRATCH_BYTES: Final = 256 * 1024  # what one read can bring; larger reads do not pay on loopback
DIRECT_BYTES: Final = 64 * 1024  # payloads from here on are received in place
SPARE_BUFFERS: Final = 8  # of received payloads, kept for the next ones of the same size
LINE_BYTES_MAX: Final = 64 * 1024  # the server's INFO line grows with a cluster's addresses; 4 kB is its usual size
PAYLOAD_BYTES_MAX: Final = 64 * 1024 * 1024  # the server's own hard limit

CRLF: Final = b"\r\n"
HEADER_LINE: Final = b"NATS/1.0"


class ProtocolViolation(Exception):
    """The peer sent bytes that are not the NATS protocol."""


class Msg(msgspec.Struct, frozen=True, gc=False):
    """One delivered message; a large payload is a view of the memory it was received into.

    `status` is the code of a header-only answer such as 404 or 503, else 0.
    """

    subject: str
    reply: str
    data: bytes | memoryview
    status: int = 0
    head: bytes = b""

    def header(self, name: str) -> str:
        """The value of a header, or an empty string. Names are compared as sent."""
        wanted = name.encode() + b":"
        for line in self.head.split(CRLF)[1:]:
            if line.startswith(wanted):
                return line[len(wanted) :].strip().decode()
        return ""


def pub_frame(subject: str, payload_size: int, reply: str = "") -> bytes:
    """The control line in front of a payload of `payload_size` bytes."""
    if reply:
        return f"PUB {subject} {reply} {payload_size}\r\n".encode()
    return f"PUB {subject} {payload_size}\r\n".encode()


def hpub_frame(subject: str, payload_size: int, headers: dict[str, str], reply: str = "") -> bytes:
    """The control line and header block in front of a payload of `payload_size` bytes."""
    block = b"NATS/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()).encode() + CRLF
    middle = f"{reply} " if reply else ""
    return f"HPUB {subject} {middle}{len(block)} {len(block) + payload_size}\r\n".encode() + block


def status_of(head: bytes) -> int:
    """The status code in a header block's first line, 0 when it has none."""
    first = head[len(HEADER_LINE) : head.find(CRLF)].strip()
    return int(first[:3]) if first[:3].isdigit() else 0


class Reader:
    """Parses what the server sends. `on_msg(sid, msg)` and `on_line(verb, rest)` are called in arrival order."""

    __slots__ = (
        "_direct",
        "_direct_at",
        "_end",
        "_on_line",
        "_on_msg",
        "_pending",
        "_scratch",
        "_spare",
        "_start",
        "_view",
    )

    def __init__(self, on_msg: Callable[[int, Msg], None], on_line: Callable[[bytes, bytes], None]) -> None:
        self._on_msg = on_msg
        self._on_line = on_line
        self._scratch = bytearray(SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._start = 0  # first byte not parsed yet
        self._end = 0  # one past the last byte received
        self._pending: tuple[int, str, str, int, int] | None = None  # sid, subject, reply, header bytes, total bytes
        self._direct: bytearray | None = None  # a large payload under way, its CRLF included
        self._direct_at = 0
        self._spare: deque[bytearray] = deque(maxlen=SPARE_BUFFERS)

    def get_buffer(self) -> memoryview:
        """Where the next bytes go. Never empty."""
        if self._direct is not None:
            return memoryview(self._direct)[self._direct_at :]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end > SCRATCH_BYTES // 2:
            self._compact()
        return self._view[self._end :]

    def _compact(self) -> None:
        rest = bytes(self._view[self._start : self._end])
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def received(self, count: int) -> None:
        """`count` bytes were written at the start of the last `get_buffer()`."""
        if self._direct is not None:
            self._direct_at += count
            if self._direct_at == len(self._direct):
                self._finish_direct()
            return
        self._end += count
        self._parse()

    def feed(self, data: bytes | memoryview) -> None:
        """The same for transports that hand over bytes of their own (WebSocket)."""
        view = memoryview(data)
        while view:
            room = self.get_buffer()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            view = view[count:]
            self.received(count)

    def _finish_direct(self) -> None:
        payload, pending = self._direct, self._pending
        assert payload is not None
        assert pending is not None
        self._direct, self._direct_at, self._pending = None, 0, None
        if payload[-2:] != CRLF:
            raise ProtocolViolation("a payload does not end with CRLF")
        sid, subject, reply, head_size, total = pending
        self._spare.append(payload)
        # A view, not a copy; the transport may still hold the memory, so it cannot be cut shorter.
        self._deliver(sid, subject, reply, head_size, memoryview(payload)[:total])

    def _buffer(self, size: int) -> bytearray:
        """The memory of an earlier payload of this size that nobody looks at any more: new memory costs as much as a copy."""
        for _ in range(len(self._spare)):
            found = self._spare.popleft()
            if len(found) != size:
                continue  # its kind is over
            try:
                found.append(0)  # refused while a view of it is alive
            except BufferError:
                self._spare.append(found)
                continue
            found.pop()
            return found
        return bytearray(size)

    def _deliver(self, sid: int, subject: str, reply: str, head_size: int, payload: bytes | memoryview) -> None:
        if not head_size:
            self._on_msg(sid, Msg(subject, reply, payload))
            return
        head = bytes(payload[:head_size])
        self._on_msg(sid, Msg(subject, reply, payload[head_size:], status_of(head), head))

    def _parse(self) -> None:
        scratch, find = self._scratch, self._scratch.find
        while True:
            if self._pending is not None:
                if not self._take_payload():
                    return
                continue
            at = find(CRLF, self._start, self._end)
            if at < 0:
                if self._end - self._start > LINE_BYTES_MAX:
                    raise ProtocolViolation(f"a control line is longer than {LINE_BYTES_MAX} bytes")
                return
            line = bytes(scratch[self._start : at])
            self._start = at + 2
            self._on_control(line)

    def _on_control(self, line: bytes) -> None:
        verb, _, rest = line.partition(b" ")
        try:
            if verb == b"MSG":
                parts = rest.decode().split()
                reply = parts[2] if len(parts) == 4 else ""
                self._expect(int(parts[1]), parts[0], reply, 0, int(parts[-1]))
            elif verb == b"HMSG":
                parts = rest.decode().split()
                reply = parts[2] if len(parts) == 5 else ""
                self._expect(int(parts[1]), parts[0], reply, int(parts[-2]), int(parts[-1]))
            elif verb in (b"PING", b"PONG", b"INFO", b"+OK", b"-ERR"):
                self._on_line(verb, rest)
            else:
                raise ProtocolViolation(f"unknown verb {verb[:20]!r}")
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise ProtocolViolation(f"malformed line {line[:80]!r}") from error

    def _expect(self, sid: int, subject: str, reply: str, head_size: int, total: int) -> None:
        if not 0 <= head_size <= total <= PAYLOAD_BYTES_MAX:
            raise ProtocolViolation(f"a payload of {total} bytes with {head_size} header bytes")
        self._pending = (sid, subject, reply, head_size, total)

    def _take_payload(self) -> bool:
        """Deliver the pending payload if it is all here; otherwise make room for the rest of it."""
        assert self._pending is not None
        sid, subject, reply, head_size, total = self._pending
        have = self._end - self._start
        if have >= total + 2:
            at = self._start + total
            if self._scratch[at : at + 2] != CRLF:
                raise ProtocolViolation("a payload does not end with CRLF")
            payload = bytes(self._view[self._start : at])
            self._start = at + 2
            self._pending = None
            self._deliver(sid, subject, reply, head_size, payload)
            return True
        if total >= DIRECT_BYTES:
            self._direct = self._buffer(total + 2)
            self._direct[:have] = self._view[self._start : self._end]
            self._direct_at = have
            self._start = self._end = 0
        elif self._start + total + 2 > SCRATCH_BYTES:
            self._compact()
        return False
