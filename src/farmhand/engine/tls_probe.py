"""Looks at the certificates that an engine presents, before there is anything to verify them with.

Nothing here trusts what it sees: `security.authority` compares it with the pin of a join line.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import Final

import msgspec

from farmhand import errors

INFO_BYTES_MAX: Final = 64 * 1024  # the clear line in front of TLS; its usual size is 0.5 kB
_INFO: Final = b"INFO "


def presented_chain(host: str, port: int, *, handshake_first: bool, timeout: float) -> list[bytes]:
    """The certificates (DER) that the peer presents; by completing the handshake it proves to own the first one's key.

    handshake_first: TLS from the first byte. timeout: seconds, for each of connecting, the clear line and TLS.
    Raises: `EngineUnreachable`, `WrongPin` when the peer says that it has no TLS.
    """
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=timeout) as sock:
            if not handshake_first:
                read_info(sock, where, timeout, tls=True)
                sock.settimeout(timeout)
            return _chain_of(sock)
    except ssl.SSLError as error:
        raise errors.EngineUnreachable(f"{where} does not speak TLS: {error}") from error
    except OSError as error:
        raise errors.EngineUnreachable(f"{where}: {str(error) or 'no answer'}") from error


def read_info(sock: socket.socket, where: str, timeout: float, *, tls: bool) -> dict[str, object]:
    """The engine's first line, and not a byte more: what follows it belongs to TLS.

    Raises: `EngineUnreachable`, `TimeoutError`; `WrongPin` when `tls` is wanted and not offered.
    """
    line = _read_line(sock, where, time.monotonic() + timeout)
    try:
        info = msgspec.json.decode(line[len(_INFO) :], type=dict[str, object])
    except msgspec.DecodeError:
        raise errors.EngineUnreachable(f"{where} does not speak NATS") from None
    if tls and not (info.get("tls_required") or info.get("tls_available")):
        raise errors.WrongPin(
            f"{where} speaks plain text only, and the join line says TLS: it is not that farm's engine"
        )
    return info


def _read_line(sock: socket.socket, where: str, deadline: float) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        sock.settimeout(max(deadline - time.monotonic(), 0.001))  # for the whole line: a peer may send byte by byte
        peeked = sock.recv(4096, socket.MSG_PEEK)
        if not peeked or len(line) > INFO_BYTES_MAX:
            raise errors.EngineUnreachable(f"{where} does not speak NATS")
        line += sock.recv(peeked.find(b"\n") + 1 or len(peeked))
        if not line.startswith(_INFO[: len(line)]):
            raise errors.EngineUnreachable(f"{where} does not speak NATS")
    return bytes(line)


def _chain_of(sock: socket.socket) -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # on purpose: the caller checks what is presented against a pin
    with context.wrap_socket(sock) as tls:
        if hasattr(tls, "get_unverified_chain"):  # Python 3.13 and later
            return list(tls.get_unverified_chain())
        # Before 3.13 the method is there, but only on the object inside.
        chain = tls._sslobj.get_unverified_chain() or []  # type: ignore[attr-defined]
        return [ssl.PEM_cert_to_DER_cert(cert.public_bytes()) for cert in chain]
