"""Who this machine is, as a node, in a farm: taken in once, known again later, and one process at a time."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from farmhand import errors
from farmhand.home import paths
from farmhand.home.enrol import Enrolled, earlier, enrol
from farmhand.home.lock import Holder, Lock
from farmhand.model.address import parse_address
from farmhand.security.joinline import parse_join_line
from farmhand.security.permissions import Role, check_name


def identify(text: str, wanted: str, say: Callable[[str], None]) -> tuple[Enrolled, Lock]:
    """Who this machine is in that farm, taken in if that is still to be done, and a lock that keeps it to this process.

    text: a join line or an address. wanted: a name, or nothing. `say`: told when the farm is not there yet.
    Raises: `BadAddress`, `FarmRunning`, `CredentialMissing`, and for a first join what `enrol` raises.
    """
    if wanted:
        check_name(wanted)
    address = parse_address(text)
    has_token = bool(address.token)
    if has_token:
        address = parse_join_line(text).address
    known = earlier(address, Role.NODE, wanted)
    name, held = _free_name(paths.known(address), [each.name for each in known], wanted, paths.machine_name())
    known = [each for each in known if each.name == name]
    try:
        if has_token:
            return enrol(text, Role.NODE, name), held
        if known:
            return known[0], held
        raise errors.CredentialMissing(  # noqa: TRY301 (it ends like the others)
            f"this machine has not joined {address} yet; use the farm's join line the first time"
        )
    except errors.EngineUnreachable as error:
        if known:
            say(f"{error}; trying on")
            return known[0], held
        _forget(held, keep=bool(wanted))
        raise
    except BaseException:
        _forget(held, keep=bool(wanted or known))
        raise


def _forget(held: Lock, *, keep: bool) -> None:
    """After a join that failed: let go of the name, and leave nothing behind of one that was made for it."""
    if not keep:
        held.path.unlink(missing_ok=True)
        held.path.with_suffix(".nk").unlink(missing_ok=True)
    held.release()


def _free_name(folder: Path, known: list[str], wanted: str, machine: str) -> tuple[str, Lock]:
    """The wanted name, or an earlier one that no process of this machine uses now, or a new one; and its lock."""
    for name in [wanted] if wanted else [*known, f"{machine}-{secrets.token_hex(2)}"]:
        try:
            return name, Lock(folder / f"node-{name}.lock", Holder(os.getpid()))
        except errors.FarmRunning:
            if wanted:
                raise errors.FarmRunning(f"the node {name!r} of that farm runs on this machine already") from None
    raise AssertionError("a new name is free")
