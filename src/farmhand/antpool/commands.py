"""`antpoolsrv` and `antpoolclient`: AntPool's two commands, which start a farm and let this machine work for one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from farmhand.antpool.executor import PORT

_SERVER: str = f"""usage: antpoolsrv [port] [/s] [/v]

Runs a farm on this machine, with a WebSocket door for AntPoolExecutor and antpoolclient.
  port  of the WebSocket door, {PORT} by default
  /s    let other machines in, by TLS; without it only this machine can connect
  /v    say more
It is `farmhand up --websocket PORT`, whose other options it does not have. Ctrl-C ends it."""

_CLIENT: str = f"""usage: antpoolclient [address]

Lets one core of this machine work for a farm; start as many as there are cores to lend.
  address  ws://127.0.0.1:{PORT} by default; of another machine's farm the first time its join line
It is `farmhand join ADDRESS --slots 1`. Ctrl-C leaves in good order."""


def server(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `antpoolsrv`."""
    from farmhand.cli.main import main

    given = list(sys.argv[1:] if arguments is None else arguments)
    _help(given, _SERVER)
    port, options = str(PORT), []
    for word in given:
        if word.isdigit():
            port = word
        elif word.lower() == "/s":
            options += ["--listen", "0.0.0.0"]  # noqa: S104 (asked for, and it speaks TLS)
        elif word.lower() == "/v":
            options.append("--verbose")
        else:
            sys.exit(f"antpoolsrv: {word!r} is neither a port nor /s nor /v; antpoolsrv /? tells more")
    main(["up", "--websocket", port, *options])


def client(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `antpoolclient`."""
    from farmhand.cli.main import main

    given = list(sys.argv[1:] if arguments is None else arguments)
    _help(given, _CLIENT)
    if len(given) > 1:
        sys.exit(f"antpoolclient: one address, not {len(given)}; antpoolclient /? tells more")
    text = given[0] if given else f"ws://127.0.0.1:{PORT}"
    main(["join", _own_line(text) or text, "--slots", "1"])


def _own_line(text: str) -> str:
    """The join line, when the address is that of the farm that this user runs on this machine."""
    from farmhand.client.contact import running_here
    from farmhand.client.remote import own_door
    from farmhand.errors import BadAddress
    from farmhand.model.address import parse_address

    running = running_here()
    if running is None:
        return ""
    try:
        address = parse_address(text)
    except BadAddress:
        return ""  # `join` says what is wrong with it
    return running.join_line if own_door(running, address) is not None and not address.token else ""


def _help(given: list[str], text: str) -> None:
    if any(word.lower() in {"/?", "/h", "-h", "--help"} for word in given):
        sys.stdout.write(text + "\n")
        sys.exit(0)
