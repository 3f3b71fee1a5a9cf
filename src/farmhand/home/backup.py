"""A farm's whole state in one file: taken while the farm runs, and put back into an empty folder.

What is in it: every stream of the engine with its consumers, who may connect (users, the join token), the keys of the farm's own
parts, its authority, its port, and the settings of the home. A stream's part is what it was at one moment; the order of the streams
and the tokens of attempts make of several moments one state: see docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from farmhand import errors
from farmhand.engine import snapshots
from farmhand.engine.broker import Broker, BrokerConfig
from farmhand.engine.connection import Connection
from farmhand.engine.snapshots import Snapshot
from farmhand.home import archive, lock
from farmhand.home.login import options
from farmhand.home.paths import FarmFile, FarmFolder
from farmhand.model import messages
from farmhand.model.address import parse_address
from farmhand.model.version import VERSION
from farmhand.security.accounts import UserStore
from farmhand.security.permissions import Role
from farmhand.security.private_files import make_private_folder, write_private

FORMAT: Final = 1  # of what the parts mean
_STEWARD: Final = "steward"  # whose credential may read and make streams
_FOLDERS: Final = ("keys", "tls")
_FILES: Final = ("port", "users.json")  # the list of users last: with it the farm is there
_SETTINGS: Final = "config.toml"  # beside the farm's folder
_SETTINGS_PART: Final = f"../{_SETTINGS}"


class Manifest(msgspec.Struct):
    """The first part of the file."""

    format: int
    version: str
    created: str
    address: str = ""
    protocol: int = messages.PROTOCOL


class Summary(msgspec.Struct):
    """What a backup holds."""

    bytes: int
    created: str
    streams: dict[str, dict[str, int]]
    users: int
    aside: str = ""  # where the farm is that was in the way
    settings_kept: bool = False  # the home had settings of its own, and they stay


# ---- taking it


async def take(folder: FarmFolder, running: FarmFile, path: Path, *, replace: bool = False) -> Summary:
    """Save the farm that runs in `folder`. Raises `FileExistsError`, `OSError`, `EngineError`, `SecurityError`."""
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    writer = archive.Writer(path, replace=replace)
    try:
        writer.add("manifest", msgspec.json.encode(Manifest(FORMAT, VERSION, created, running.address)))
        taken = await _save_streams(folder, running.address, writer)
        for name, file in _files_of(folder):
            writer.add(f"file:{name}", file.read_bytes())
        size = writer.finish()
    except BaseException:
        writer.abandon()
        raise
    counts = {one.name: {"messages": int(one.state["messages"]), "bytes": int(one.state["bytes"])} for one in taken}
    return Summary(size, created, counts, len(UserStore(folder.root).list()))


async def _save_streams(folder: FarmFolder, address: str, writer: archive.Writer) -> list[Snapshot]:
    connection = await _connect(folder, address)
    try:
        taken: list[Snapshot] = []
        for name in await snapshots.stream_names(connection):
            async for part in snapshots.save(connection, name):
                if isinstance(part, Snapshot):
                    taken.append(part)
                    writer.add(f"stream:{name}", msgspec.json.encode(part))
                else:
                    writer.add(f"chunk:{name}", part)
            writer.add(f"whole:{name}", b"")
        return taken
    finally:
        await connection.close()


async def _connect(folder: FarmFolder, address: str) -> Connection:
    ca = folder.ca if folder.ca.exists() else None
    login = options(parse_address(address), folder.key(_STEWARD), Role.STEWARD, _STEWARD, ca)
    login.name = "backup"
    login.inbox += f"-backup-{secrets.token_hex(6)}"  # the steward itself listens on its own
    return await Connection.open(login)


def _files_of(folder: FarmFolder) -> Iterator[tuple[str, Path]]:
    for part in _FOLDERS:
        for file in sorted((folder.root / part).glob("*")):
            if file.is_file() and not file.name.startswith("."):
                yield f"{part}/{file.name}", file
    for name in _FILES:
        if (folder.root / name).exists():
            yield name, folder.root / name
    if (settings := folder.root.parent / _SETTINGS).exists():
        yield _SETTINGS_PART, settings


# ---- putting it back


def put_back(path: Path, folder: FarmFolder, *, force: bool = False) -> Summary:
    """Make the farm of a backup in `folder`, where none may run. With `force` one that is there is moved aside first.

    After an error the folder is as it was.

    Raises: `BackupDamaged`, `VersionMismatch`, `FarmRunning`, `FarmNotEmpty`, `EngineError`, `SecurityError`, `OSError`.
    """
    manifest = _read_manifest(path)
    files = {name.partition(":")[2]: data for name, data in archive.parts(path) if name.startswith("file:")}
    make_private_folder(folder.root)
    with lock.Lock(folder.lock, lock.Holder(os.getpid())):
        there = _content(folder)
        if there and not force:
            raise errors.FarmNotEmpty(
                f"{folder.root} has a farm already ({', '.join(p.name for p in there)}); end it and give another $FARMHAND_HOME, or "
                "say --force to move it aside"
            )
        draft = FarmFolder(folder.root / f"restoring-{secrets.token_hex(4)}")
        try:
            draft.make()
            _write_files(path, files, draft)
            counts = _load_streams(path, draft)
            aside = _move_aside(folder, there)
            _move_in(draft, folder)
        finally:
            shutil.rmtree(draft.root, ignore_errors=True)
    kept = _settle_settings(files, folder)
    return Summary(
        path.stat().st_size, manifest.created, counts, len(UserStore(folder.root).list()), str(aside or ""), kept
    )


def _read_manifest(path: Path) -> Manifest:
    """What the file says of itself. Raises `BackupDamaged` also for a format that is newer than ours, and `VersionMismatch`."""
    name, data = next(archive.parts(path), ("", b""))
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError:
        raise errors.BackupDamaged(f"{path} does not begin as a backup of a farm does ({name!r})") from None
    if manifest.format > FORMAT:
        raise errors.BackupDamaged(
            f"{path} has format {manifest.format} and was made by Farmhand {manifest.version}; this Farmhand {VERSION} reads up to "
            f"format {FORMAT}: update it"
        )
    if manifest.protocol != messages.PROTOCOL:  # what is queued could not run, and its results not be read
        raise errors.VersionMismatch(
            f"{path} was made by Farmhand {manifest.version} (protocol {manifest.protocol}), this is {VERSION} (protocol "
            f"{messages.PROTOCOL}); restore it with the version that made it"
        )
    return manifest


def _content(folder: FarmFolder) -> list[Path]:
    """What a farm has left in its folder. Logs and locks are none."""
    named = [folder.root / name for name in (*_FOLDERS, *_FILES, "users.conf", "epoch")]
    there = [path for path in named if (path.is_dir() and any(path.iterdir())) or path.is_file()]
    return there + ([folder.engine] if (folder.engine / "store").exists() else [])


def _write_files(path: Path, files: dict[str, bytes], draft: FarmFolder) -> None:
    for name, data in files.items():
        target = draft.root / name
        if name == _SETTINGS_PART:
            continue
        if target.parent not in (draft.root, draft.keys, draft.tls):
            raise errors.BackupDamaged(f"{path} names a file that no farm has: {name!r}")
        write_private(target, data)
    users = UserStore(draft.root)
    if not users.list():
        raise errors.BackupDamaged(f"{path} has no list of users")
    users.write_conf()
    draft.renew_epoch()


def _load_streams(path: Path, draft: FarmFolder) -> dict[str, dict[str, int]]:
    """Have an engine of our own make the streams, on a port that nobody knows."""
    config = BrokerConfig(folder=draft.engine, store_dir=draft.engine / "store", users_conf=draft.root / "users.conf",
                          server_name=draft.server_name, log_file=draft.logs / "engine.log")  # fmt: skip
    with Broker(config) as broker:
        return asyncio.run(_load_all(path, draft, broker.address))


async def _load_all(path: Path, draft: FarmFolder, address: str) -> dict[str, dict[str, int]]:
    connection = await _connect(draft, address)
    counts: dict[str, dict[str, int]] = {}
    try:
        loading: snapshots.Loading | None = None
        for name, data in archive.parts(path):
            kind = name.partition(":")[0]
            if kind == "stream":
                loading = snapshots.Loading(connection, msgspec.json.decode(data, type=Snapshot))
                await loading.begin()
            elif kind == "chunk" and loading is not None:
                await loading.send(data)
            elif kind == "whole" and loading is not None:
                await loading.finish()
                state = loading.snapshot.state
                counts[loading.snapshot.name] = {key: int(state[key]) for key in ("messages", "bytes")}
    finally:
        await connection.close()
    return counts


def _move_aside(folder: FarmFolder, there: list[Path]) -> Path | None:
    if not there:
        return None
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    aside = folder.root / f"before-restore-{stamp}-{secrets.token_hex(2)}"
    make_private_folder(aside)
    for path in there:
        path.rename(aside / path.name)
    return aside


def _move_in(draft: FarmFolder, folder: FarmFolder) -> None:
    for name in ("engine", *_FOLDERS, "epoch", "users.conf", *_FILES):
        source, target = draft.root / name, folder.root / name
        if source.is_dir() and target.is_dir():
            shutil.rmtree(target)  # left by a farm that never got as far as having something in it
        if source.exists():
            source.rename(target)


def _settle_settings(files: dict[str, bytes], folder: FarmFolder) -> bool:
    """The settings of the home that was saved, unless this home has its own. True when it has."""
    target, saved = folder.root.parent / _SETTINGS, files.get(_SETTINGS_PART)
    if saved is None:
        return False
    if target.exists():
        return target.read_bytes() != saved
    write_private(target, saved)
    return False
