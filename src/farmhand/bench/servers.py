"""What three servers cost beside one: both started as `farmhand up` starts them, on this machine, and measured in one run.

Three engines on one machine share its cores and its disk, which three machines do not; in exchange no network is in between.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from farmhand.bench import workloads

CALLS: Final = 20_000
SINGLE_CALLS: Final = 1_000  # for the latency of one at a time


def measure(slots: int) -> dict[str, Any]:
    """Calls a second by `submit` and by `map`, and the p50 of one at a time, of one server and of three."""
    with tempfile.TemporaryDirectory(prefix="farmhand-bench-") as folder:
        return {"one": _figures(Path(folder), slots, 1), "three": _figures(Path(folder), slots, 3)}


def _figures(folder: Path, slots: int, servers: int) -> dict[str, float]:
    from farmhand import Farm

    with _farm(folder / f"{servers}", slots, servers) as address, Farm(address) as farm:
        workloads.warm(farm)
        found = {
            "submit": workloads.best(lambda: workloads.submit_rate(farm, CALLS)),
            "map": workloads.best(lambda: workloads.map_rate(farm, CALLS)),
        }
        found["p50"], found["p99"] = workloads.latencies(farm, SINGLE_CALLS)
        return found


@contextlib.contextmanager
def _farm(folder: Path, slots: int, servers: int) -> Iterator[str]:
    """The address of a farm of so many servers; all slots are beside the first, so that only the engines differ."""
    homes = [folder / str(number) for number in range(servers)]
    first: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for home in homes:
            home.mkdir(parents=True)
            options = ["--slots", str(slots)] if not first else ["--nodes", "0"]
            if servers > 1:
                options += ["--cluster", *([first["server_line"]] if first else [])]
            stack.callback(_command, home, "down", "--now")
            said = _command(home, "up", "--detach", *options)
            first = first or said
        os.environ["FARMHAND_HOME"] = str(homes[0])  # where the owner's credential is
        yield str(first["address"])


def _command(home: Path, *arguments: str) -> dict[str, Any]:
    """Run one command of that home; what it says. Raises `CalledProcessError`."""
    done = subprocess.run(
        [sys.executable, "-m", "farmhand.cli", *arguments, "--json"],
        env={**os.environ, "FARMHAND_HOME": str(home)}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    said: dict[str, Any] = json.loads(done.stdout)
    return said
