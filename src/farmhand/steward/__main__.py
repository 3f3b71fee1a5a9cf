"""The steward's process: `python -m farmhand.steward`. Started by the supervisor."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from pathlib import Path

from farmhand import errors
from farmhand.home.login import options
from farmhand.home.logs import start_logging
from farmhand.home.pipe import at_end_of_input, first_line
from farmhand.home.process import run_loop
from farmhand.model.address import parse_address
from farmhand.security.accounts import UserStore
from farmhand.security.permissions import Role
from farmhand.steward.enrolment import Enrolment
from farmhand.steward.member import Member
from farmhand.steward.service import Steward


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="farmhand-steward")
    parser.add_argument("--address", help="where the engine is; without it the first line of the input says so")
    parser.add_argument("--keys", required=True, type=Path)
    parser.add_argument("--ca", type=Path)
    parser.add_argument("--users", required=True, type=Path)
    parser.add_argument("--cluster", action="store_true", help="one of a cluster's stewards")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args()
    start_logging(given.log, given.log_level)
    supervised = given.address is None
    if supervised:
        given.address = first_line()
    run_loop(_serve(given, supervised=supervised))


async def _serve(given: argparse.Namespace, *, supervised: bool) -> None:
    address = parse_address(given.address)
    farm = options(address, given.keys / "steward.nk", Role.STEWARD, "steward", given.ca)
    system = options(address, given.keys / "system.nk", Role.SYSTEM, "system", given.ca)
    steward: Member | Steward
    if given.cluster:
        steward = Member(farm, system, given.users)
    else:
        ca_pem = given.ca.read_text() if given.ca else ""
        steward = Steward(farm, system, Enrolment(UserStore(given.users), ca_pem))
    loop = asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGINT"):
        with contextlib.suppress(NotImplementedError, AttributeError):
            loop.add_signal_handler(getattr(signal, name), steward.stop)
    if supervised:
        at_end_of_input(lambda: loop.call_soon_threadsafe(steward.stop))
    with contextlib.suppress(errors.EngineLost):
        await steward.run()


if __name__ == "__main__":
    main()
