"""What the agent measures about processes and the machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

from farmhand.model.needs import PROCESS

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def memory(pid: int) -> int:
    """Resident bytes of one process, 0 when it is gone. On Linux one read of /proc, 10 us."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        pass
    try:
        import psutil
    except ImportError:  # a node without processes does without it
        return 0
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and everything it started."""
    from farmhand.node.processes import descendants

    return memory(pid) + sum(memory(child) for child in descendants(pid))


def usable_cores() -> int:
    """Cores that this process may use: its affinity and its cgroup's quota, whichever is less; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cores()
    return max(1, min(cores, int(quota))) if quota else max(1, cores)


def _cgroup_cores() -> float:
    """The quota of the control group in cores, 0 when there is none. Version 2 first, then version 1."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return 0.0 if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else 0.0
    except (OSError, ValueError):
        return 0.0


def total_memory() -> int:
    """Bytes of memory on this machine, or of its control group when that is less."""
    total = _physical_memory()
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int(Path("/sys/fs/cgroup", name).read_text())
            return min(total, limit) if limit > 0 else total
        except (OSError, ValueError):
            continue
    return total


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * _PAGE
    except (AttributeError, ValueError, OSError):
        import psutil

        return int(psutil.virtual_memory().total)


def capabilities(slots: int, *, processes: bool = True) -> dict[str, str]:
    """What a node finds out about itself. Without `processes` it can give none to a task, nor stop one that takes too much."""
    machine = platform.machine().lower()
    system = {"darwin": "macos", "win32": "windows"}.get(
        sys.platform, "linux" if sys.platform.startswith("linux") else sys.platform
    )
    found = {
        "os": system,
        "cpu": machine,
        "platform": f"{system}-{machine}",
        "cpus": str(slots),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    return {**found, "mem": str(total_memory()), PROCESS: ""} if processes else found


def add_capabilities(found: dict[str, str], texts: Iterable[str]) -> dict[str, str]:
    """With what the owner says: `latex`, `gpu=2`."""
    for text in texts:
        name, _, value = text.partition("=")
        found[name.strip().lower()] = value.strip()
    return found


def reachable_addresses(*, six: bool) -> list[str]:
    """This machine's IP addresses for others, those of real networks before those of containers and virtual machines."""
    import ipaddress

    import psutil

    found: list[tuple[bool, bool, str]] = []
    for name, entries in psutil.net_if_addrs().items():
        virtual = name.startswith(("docker", "br-", "veth", "virbr", "cni", "flannel", "vmnet", "vboxnet"))
        for entry in entries:
            try:
                address = ipaddress.ip_address(entry.address)
            except ValueError:
                continue
            if not (address.is_loopback or address.is_link_local) and (six or address.version == 4):
                found.append((virtual, address.version != 4, entry.address))
    return [address for _, _, address in sorted(found, key=lambda item: item[:2])]


def public_host(listen: str) -> str:
    """What another machine is told: the address listened on; for a wildcard the first that others can reach.

    Not this machine's name: on many machines it stands for loopback, and others may not know it at all.
    """
    if listen not in ("0.0.0.0", "::"):  # noqa: S104 (a comparison)
        return listen
    return next(iter(reachable_addresses(six=listen == "::")), platform.node())
