"""A node agent's process: `python -m farmhand.node`. Started by the supervisor and by `farmhand join`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from pathlib import Path

from farmhand.home.login import options
from farmhand.home.logs import start_logging
from farmhand.home.pipe import at_end_of_input, first_line
from farmhand.home.process import run_loop
from farmhand.model import limits
from farmhand.model.address import parse_address
from farmhand.node.agent import Agent
from farmhand.node.config import Config
from farmhand.node.monitor import add_capabilities, capabilities
from farmhand.node.processes import become_subreaper
from farmhand.security.permissions import Role


def main() -> None:
    """Work until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="farmhand-node")
    parser.add_argument("--address", help="where the engine is; without it the first line of the input says so")
    parser.add_argument("--key", required=True, type=Path)
    parser.add_argument("--ca", type=Path)
    parser.add_argument("--node", required=True, help="id, the name of its credential")
    parser.add_argument("--name", default="")
    parser.add_argument("--slots", required=True, type=int)
    parser.add_argument("--cache", required=True, type=Path)
    parser.add_argument("--spool", required=True, type=Path)
    parser.add_argument("--grace", type=float, default=limits.GRACE_S)
    parser.add_argument("--capability", action="append", default=[])
    parser.add_argument("--log", type=Path)
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args()
    start_logging(given.log, given.log_level)
    become_subreaper()
    supervised = given.address is None
    if supervised:
        given.address = first_line()
    run_loop(_work(given, supervised=supervised))


async def _work(given: argparse.Namespace, *, supervised: bool) -> None:
    given.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = add_capabilities(capabilities(given.slots), given.capability)
    loop = asyncio.get_running_loop()
    agent: Agent | None = None

    def leave() -> None:
        if agent is not None:
            agent.spawn(agent.leave())

    if supervised:
        at_end_of_input(lambda: loop.call_soon_threadsafe(lambda: agent.abandon() if agent else os._exit(1)))
    for name in ("SIGTERM", "SIGINT"):
        with contextlib.suppress(NotImplementedError, AttributeError):
            loop.add_signal_handler(getattr(signal, name), leave)
    while True:
        config = Config(
            node=given.node, name=given.name or given.node, slots=given.slots, cache=given.cache, spool=given.spool,
            capabilities=found, grace=given.grace,
            options=options(parse_address(given.address), given.key, Role.NODE, given.node, given.ca),
        )  # fmt: skip
        agent = Agent(config)
        if not await agent.run():
            return


if __name__ == "__main__":
    main()
