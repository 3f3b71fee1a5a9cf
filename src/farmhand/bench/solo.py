"""Measures of Farmhand alone: start-up, memory, a million tasks, the network path, objects of gigabytes.

Each runs in a Python process of its own, so that one measure's memory does not stand in another's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from farmhand.bench import joblib_row, servers, workloads

MB: Final = workloads.MB
GIGABYTES: Final = 4
MILLION: Final = 1_000_000
SCATTERED_MB: Final = 1024
LOOKS: Final = 50  # at the memory while a million calls run


def in_process(name: str, *args: int) -> dict[str, Any]:
    """Run a measure of this module in a fresh interpreter and return what it found. Raises `CalledProcessError`."""
    code = f"import sys; from farmhand.bench import solo; solo.child({name!r}, sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(name: str, args: list[str]) -> None:
    """Entry point of the fresh interpreter."""
    measures = {"start": start, "memory": memory, "million": million, "network": network, "gigabytes": gigabytes,
                "scattered": scattered, "servers": servers.measure, "session": session,
                "joblib": joblib_row.measure}  # fmt: skip
    found = measures[name](*map(int, args))
    sys.stdout.write(json.dumps(found) + "\n")


def command_seconds(*command: str, repeats: int = 5) -> float:
    """Wall seconds of a command, the best of some runs."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - began)
    return min(taken)


def start(slots: int) -> dict[str, Any]:
    """Seconds from `Farm()` to the first result."""
    from farmhand import Farm

    began = time.perf_counter()
    with Farm(max_workers=slots) as farm:
        farm.submit(workloads.echo, 1).result()
        return {"seconds": time.perf_counter() - began}


class Memory:
    """Resident bytes of a farm's processes, by role."""

    def __init__(self, farm: Any) -> None:
        import psutil

        self._host = psutil.Process(farm._embedded.pid)
        self._own = psutil.Process()

    def look(self) -> dict[str, float]:
        """MB by role; slots as their largest."""
        found = {"client": self._own.memory_info().rss / MB, "host": self._host.memory_info().rss / MB}
        for process in self._host.children(recursive=True):
            role = _role(" ".join(process.cmdline()))
            found[role] = max(found.get(role, 0.0), process.memory_info().rss / MB)
        return found


def _role(command: str) -> str:
    for part, role in (("farmhand.node.slot", "slot"), ("farmhand.node", "node"), ("farmhand.steward", "steward")):
        if part in command:
            return role
    return "engine" if "server.conf" in command else "other"


def memory(slots: int) -> dict[str, Any]:
    """MB of each part after some work."""
    from farmhand import Farm

    with Farm(max_workers=slots) as farm:
        workloads.warm(farm)
        return Memory(farm).look()


def million(slots: int, calls: int = MILLION) -> dict[str, Any]:
    """A lazy map over a generator, twice: rate of the first, largest memory, growth each 100,000 calls of the second.

    The first also brings the engine's heap and its memory of message ids to their usual size.
    """
    from farmhand import Farm

    with Farm(max_workers=slots) as farm:
        workloads.warm(farm)
        look = Memory(farm).look
        began = time.perf_counter()
        first = _watched(farm, calls, look)
        seconds = time.perf_counter() - began
        second = _watched(farm, calls, look)
        roles = ("client", "engine")
        return {"rate": calls / seconds, "peak": {role: max(now[role] for now in first + second) for role in roles},
                "growth": {role: slope([now[role] for now in second]) / (calls / LOOKS / 100_000) for role in roles}}  # fmt: skip


def _watched(farm: Any, calls: int, look: Callable[[], dict[str, float]]) -> list[dict[str, float]]:
    """Map over so many numbers, and look at the memory LOOKS times."""
    seen, total = [], 0
    for number, value in enumerate(farm.map(workloads.echo, workloads.numbers(calls)), 1):
        total += value
        if number % (calls // LOOKS) == 0:
            seen.append(look())
    if total != calls * (calls - 1) // 2:
        raise AssertionError("the map lost a result")
    return seen


def slope(values: list[float]) -> float:
    """How much they grow each step, by least squares: one look alone tells more of garbage than of growth."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    return sum((i - middle) * (value - mean) for i, value in enumerate(values)) / sum(
        (i - middle) ** 2 for i in range(len(values))
    )


def network(slots: int) -> dict[str, Any]:
    """MB a second of 64 MB each way through the engine."""
    from farmhand import Farm

    with Farm(max_workers=slots, shared_memory=False) as farm:
        workloads.warm(farm)
        return {"argument": workloads.best(lambda: workloads.argument_rate(farm)),
                "result": workloads.best(lambda: workloads.result_rate(farm))}  # fmt: skip


def scattered(megabytes: int) -> dict[str, Any]:
    """Seconds until so many MB are scattered and each of two nodes has used them: as files, and through the engine."""
    from farmhand import Farm

    data = bytearray(megabytes * MB)
    data[::4096] = b"\x01" * len(data[::4096])  # so that its memory is there before it is measured
    found = {}
    for way, shared in (("local", True), ("network", False)):
        with Farm(max_workers=2, nodes=2, shared_memory=shared) as farm:
            workloads.warm(farm)
            began = time.perf_counter()
            ref = farm.scatter(workloads.as_array(data))
            wide = [farm.submit(workloads.nap_beside, ref, 0.2) for _ in range(2)]  # so long that both nodes take one
            if any(future.result() != len(data) for future in wide):
                raise AssertionError("the object arrived cut short")
            found[way] = time.perf_counter() - began - 0.2
    return found


def gigabytes(slots: int, count: int = GIGABYTES) -> dict[str, Any]:
    """An argument and a result of gigabytes: MB a second, and MB above the object itself in client and agent."""
    import resource
    import threading

    from farmhand import Farm

    size = count * 1024 * MB
    with Farm(max_workers=slots) as farm:
        workloads.warm(farm)
        look, stop, node = Memory(farm).look, threading.Event(), [0.0]

        def watch() -> None:
            while not stop.wait(0.1):
                node[0] = max(node[0], look().get("node", 0.0))

        before_node = look()["node"]
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            data = b"\x01" * size  # written to, so that its memory is there before it is measured
            base = _peak(resource)
            began = time.perf_counter()
            if farm.submit(workloads.size_of, data).result() != size:
                raise AssertionError("the argument arrived cut short")
            up, above = time.perf_counter() - began, _peak(resource) - base
            del data
            began = time.perf_counter()
            value = farm.submit(workloads.make, size).result()
            down, whole = time.perf_counter() - began, len(value)
        finally:
            stop.set()
            watcher.join()
        return {"argument": size / MB / up, "result": whole / MB / down, "client_above": max(above, _peak(resource) - base),
                "node_above": node[0] - before_node}  # fmt: skip


def _peak(resource: Any) -> float:
    """This process's largest resident size so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB)


def session(slots: int, calls: int = MILLION) -> dict[str, Any]:
    """A named session on a farm that outlives its client: rates until all is stored and until all is done, the largest engine,
    and the seconds from attaching to the first result.
    """
    import tempfile

    from farmhand import Farm

    with tempfile.TemporaryDirectory(prefix="farmhand-bench-") as home:
        os.environ["FARMHAND_HOME"] = home
        command = [sys.executable, "-m", "farmhand.cli"]
        up = [*command, "up", "--detach", "--slots", str(slots), "--json"]
        address = json.loads(subprocess.run(up, stdout=subprocess.PIPE, check=True).stdout)["address"]
        try:
            with Farm(address, session="bench", output=False) as farm:
                workloads.warm(farm)
                began = time.perf_counter()
                futures = [farm.submit(workloads.echo, number) for number in range(calls)]
                farm._driver.flush()
                stored = time.perf_counter() - began
                for future in futures:
                    future.result()
                done = time.perf_counter() - began
            engine = _engine_of(home)
            with Farm(address, output=False) as farm:
                began = time.perf_counter()
                if farm.attach("bench")[workloads.WARM_CALLS].result() != 0:
                    raise AssertionError("the session gave another call's result")
                attached = time.perf_counter() - began
        finally:
            subprocess.run([*command, "down"], stdout=subprocess.DEVNULL, check=True)
    return {"stored": calls / stored, "done": calls / done, "engine": engine, "attached": attached}


def _engine_of(home: str) -> float:
    """MB of the engine whose files are in that folder."""
    import psutil

    found = [p.memory_info().rss for p in psutil.process_iter(["cmdline"]) if home in " ".join(p.info["cmdline"] or ())
             and "server.conf" in " ".join(p.info["cmdline"])]  # fmt: skip
    return max(found) / MB


def machine() -> dict[str, Any]:
    """What was measured on."""
    import platform

    return {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count() or 0}
