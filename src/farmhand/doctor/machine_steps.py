"""Checks of what lies on this machine: the server, folders, credentials, disk, supervisor, logs."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from farmhand.doctor.checks import Fault, Skip
from farmhand.doctor.patient import Patient, process_state
from farmhand.engine.server_binary import find_server
from farmhand.home import lock, paths
from farmhand.node.uv import find_uv
from farmhand.node.venvs import kept_environments
from farmhand.security.nkeys import load_seed
from farmhand.security.private_files import read_private

DISK_BYTES_MIN: Final = 256 * 1024 * 1024  # below it the engine soon refuses new work
MEMORY_BYTES_MIN: Final = 64 * 1024 * 1024  # of the folder through which large values travel on one machine
LOG_BYTES: Final = 512 * 1024  # of the end of each log
_ELSEWHERE: Final = "that farm runs elsewhere"
_STAMP: Final = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} ")
_LOGS: Final = (".log", ".log.1", ".stderr")  # also the one that was turned over last
_TROUBLE: Final = ("Traceback (most recent call last)", "panic: ", "Fatal Python error")


def _own(patient: Patient) -> paths.FarmFolder:
    if patient.folder is None:
        raise Skip(_ELSEWHERE)
    return patient.folder


async def server_binary(patient: Patient) -> str:
    """Whether there is a nats-server to run, of a version that will do."""
    _own(patient)
    path, version = await asyncio.to_thread(find_server)
    return f"nats-server {version} at {path}"


async def state_folder(patient: Patient) -> str:
    """Whether nobody else can read the farm's state."""
    folder = _own(patient)
    if not folder.root.exists():
        raise Skip(f"there is no {folder.root} yet; the first `farmhand up` makes it")
    if os.name != "posix":
        raise Skip("on this system the user's profile keeps others out")
    for part in (folder.root, folder.engine, folder.keys, folder.tls, folder.logs):
        if not part.exists():
            continue
        found = part.stat()
        if found.st_uid != os.getuid():
            raise Fault(f"{part} belongs to another user (uid {found.st_uid})", f"sudo chown -R {os.getuid()} '{part}'")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise Fault(f"{part} has mode {stat.S_IMODE(found.st_mode):04o}", f"chmod 700 '{part}'")
    return f"{folder.root}, for this user only"


async def credentials(patient: Patient) -> str:
    """Whether the keys can be read by us and by nobody else."""
    if patient.folder is None:
        patient.meant.connect()  # reads the key, and the authority's certificate for TLS
        return "the key for that farm"
    keys = sorted(patient.folder.keys.glob("*.nk")) if patient.folder.keys.exists() else []
    if not keys:
        raise Skip("no keys yet; the first `farmhand up` makes them")
    for key in keys:
        load_seed(key)
    others = [
        patient.folder.root / "users.json",
        patient.folder.root / "users.conf",
        patient.folder.tls / "ca.key",
        patient.folder.tls / "server.key",
        patient.folder.file,
    ]
    for path in others:
        if path.exists():
            read_private(path)
    return f"{len(keys)} keys, mode 0600"


async def disk_space(patient: Patient) -> str:
    """Whether there is room for work."""
    folder = _own(patient)
    nearest = next(part for part in (folder.root, *folder.root.parents) if part.exists())
    free = shutil.disk_usage(nearest).free
    if free < DISK_BYTES_MIN:
        raise Fault(
            f"{free / 1e6:.0f} MB free at {nearest}", "make room there: the engine refuses new work when it is full"
        )
    memory = paths.shared_memory()
    left = shutil.disk_usage(memory).free
    if left < MEMORY_BYTES_MIN:
        raise Fault(f"{left / 1e6:.0f} MB free at {memory}", "make room there: large values pass through it")
    return f"{free / 1e9:.1f} GB free for the engine, {left / 1e9:.1f} GB for values under way"


async def environments(patient: Patient) -> str:
    """Whether nodes of this machine can build environments, and what there is of them."""
    _own(patient)
    found = find_uv()
    count, size = await asyncio.to_thread(kept_environments, paths.cache())
    return f"uv at {found}; {count} environments, {size / 1e6:.0f} MB"


async def supervisor(patient: Patient) -> str:
    """Whether the farm's supervisor runs and has said where the farm is."""
    folder = _own(patient)
    holder = lock.holder(folder.lock)
    if holder is None:
        raise Fault(f"no farm runs in {folder.root}", "farmhand up --detach, or --farm ADDRESS for a farm elsewhere")
    if state := process_state(holder.pid):
        raise Fault(f"the supervisor's process {state}", "farmhand down, then farmhand up")
    if folder.read() is None:
        raise Fault(
            f"process {holder.pid} has the farm but does not say where it is", "farmhand down, then farmhand up"
        )
    return f"process {holder.pid}"


async def logs(patient: Patient) -> str:
    """Whether a part of this run, or a node of this machine, has written that it failed in a way nobody foresaw."""
    files = _log_files(patient)
    found = await asyncio.to_thread(
        lambda: sorted((when, path, line) for path, since in files for when, line in _troubles(path, since))
    )
    if found:
        _, path, line = found[-1]
        raise Fault(
            f"{len(found)} failures in {len({p for _, p, _ in found})} logs, the last in {path}: {line}",
            "please report it with that log; the farm goes on by itself",
        )
    return f"{len(files)} files without a traceback"


def _log_files(patient: Patient) -> list[tuple[Path, float]]:
    """The logs of the farm here, or of this machine's nodes in a farm elsewhere; each with when its process began."""
    folder = patient.folder
    if folder is not None:
        since = folder.lock.stat().st_mtime if folder.lock.exists() else 0.0
        return [(path, since) for path in sorted(folder.logs.glob("*")) if path.name.endswith(_LOGS)]
    found = []
    for held in paths.known(patient.address).glob("node-*.lock"):
        for stem in (held.stem, held.stem.replace("node-", "keeper-", 1)):
            logs = sorted(held.parent.glob(f"{stem}.log*"))
            found += [(path, held.stat().st_mtime) for path in logs if path.name.endswith(_LOGS)]
    if not found:
        raise Skip(_ELSEWHERE)
    return found


def _troubles(path: Path, since: float) -> Iterator[tuple[float, str]]:
    """When (seconds since 1970), and what ends each traceback that was written since `since`."""
    if path.stat().st_mtime < since:
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    when = since
    for number, line in enumerate(lines):
        if stamp := _STAMP.match(line):
            when = (
                dt.datetime.fromisoformat(stamp.group(1)).astimezone().timestamp() + 1.0
            )  # the log's seconds are whole
        if when >= since and line.startswith(_TROUBLE):
            yield (
                when,
                next((after for after in lines[number + 1 :] if after and not after.startswith(" ")), line)[:200],
            )
