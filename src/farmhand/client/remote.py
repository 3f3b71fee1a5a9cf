"""Finding the credential for a farm at an address, and enrolling with a join line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from farmhand import errors
from farmhand.engine.options import Options
from farmhand.home import paths
from farmhand.home.enrol import enrol
from farmhand.home.login import options
from farmhand.model.address import Address, parse_address
from farmhand.node.host import OWNER
from farmhand.security.permissions import Role


def remote_login(text: str) -> tuple[Callable[[], Options], str]:
    """How to connect to the farm at an address or join line, and the folder shared with its slots (empty for none).

    Raises: `BadAddress`, `CredentialMissing`.
    """
    address = parse_address(text)
    own = paths.default_farm()
    running = own.read()
    door = own_door(running, address)
    if running is not None and door is not None:
        ca = own.ca if own.ca.exists() else None
        return functools.partial(options, door, own.key(OWNER), Role.CLIENT, OWNER, ca), running.spool
    if address.token:
        return lambda: _enrolled(text), ""
    folder = paths.known(address)
    keys = sorted(folder.glob("client-*.nk"))
    if not keys and address.loopback and address.port == own.remembered_port():
        raise errors.FarmNotRunning(f"the farm at {address} is yours and does not run: start it with `farmhand up`")
    if not keys:
        raise errors.CredentialMissing(
            f"no credential for {address} on this machine; use the farm's join line once: Farm('tls://TOKEN@...'), as "
            "`farmhand up` printed it"
        )
    name = keys[0].stem.removeprefix("client-")
    return lambda: options(address, keys[0], Role.CLIENT, name, folder / "ca.pem"), ""


def own_door(running: paths.FarmFile | None, address: Address) -> Address | None:
    """The door of this machine's own farm that an address means, if it means one."""
    doors = [running.address, running.websocket] if running is not None else []
    return next((door for door in map(parse_address, filter(None, doors)) if _same(door, address)), None)


def _enrolled(text: str) -> Options:
    """Enrolling runs a loop of its own, and the caller's thread has one already."""
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(enrol, text, Role.CLIENT).result().options()


def _same(one: Address, other: Address) -> bool:
    return one.port == other.port and (one.host == other.host or (one.loopback and other.loopback))
