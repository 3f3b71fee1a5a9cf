"""The environments of a machine: each is built once, whoever wants it, and goes when nobody has used it for long.

`<cache>/envs/` is shared by the agents of a machine:

    <key>/                the environment; it counts when its stamp is there, which is written last
    <key>.<agent>.use     locked by an agent whose slots may run in it
    locks/<digits>        held while an environment is looked at, built or removed

Rule 1: nobody uses an environment without its stamp. One that is half built is removed and built anew, in its place, because
what is installed may hold its own path.
Rule 2: an environment is built, taken into use and removed under the same lock. uv inherits that lock, so what a killed agent
began is over before anybody else begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import shutil
import sys
import sysconfig
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

from farmhand import errors
from farmhand.home.lock import Holder, Lock, holder
from farmhand.model import limits
from farmhand.model.environment import Recipe
from farmhand.node.aside import on_thread
from farmhand.node.support import OWN_PACKAGES
from farmhand.node.uv import Uv
from farmhand.security.private_files import make_private_folder

log = logging.getLogger("farmhand.node")

_STAMP: Final = "farmhand.json"
_LOCK_DIGITS: Final = 2  # of the key: 256 locks at most, so that none need be removed
_KEY_CHARACTERS: Final = 24
_BIN: Final = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")


class Stamp(msgspec.Struct):
    """Says that an environment is whole. Its file's time is that of the last use."""

    recipe: Recipe
    size: int  # bytes of its files
    seconds: float  # that the building took


class Place(msgspec.Struct, frozen=True):
    """An environment that is whole."""

    key: str
    folder: Path
    foreign: bool  # its Python is of another minor version than this node's

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder.joinpath(*_BIN)


class Venvs:
    """The environments as one agent sees them. All but `close` is called on its loop."""

    def __init__(self, cache: Path, node: str) -> None:
        self._folder = cache / "envs"
        self._agent = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._uv = Uv(node)
        self._making: dict[str, asyncio.Task[Place]] = {}
        self._wanted: Counter[str] = Counter()  # callers between asking and using
        self._leases: dict[str, Lock] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._collecting: asyncio.Task[None] | None = None
        self.builds = 0

    async def place(self, recipe: Recipe) -> Place:
        """The environment of a recipe, built when it is not there. Equal requests share one build.

        Raises `EnvironmentFailed`; for ENVIRONMENT_FAILED_S after a failed build the same again without a try.
        """
        key = self.key(recipe)
        until, text = self._failed.get(key, (0.0, ""))
        if time.monotonic() < until:
            raise errors.EnvironmentFailed(text)
        self._wanted[key] += 1
        try:
            task = self._making.get(key)
            if task is None:
                self._making[key] = task = asyncio.get_running_loop().create_task(self._make(key, recipe))
                task.add_done_callback(functools.partial(self._on_made, key))
            return await asyncio.shield(task)
        finally:
            self._wanted[key] -= 1
            if not self._wanted[key]:
                del self._wanted[key]

    def _on_made(self, key: str, task: asyncio.Task[Place]) -> None:
        del self._making[key]
        if not task.cancelled():
            task.exception()  # those who waited have it; there may be none any more

    def on_failed(self, key: str, text: str) -> None:
        """It could not be built, or does not run: who asks for it soon is told so at once."""
        now = time.monotonic()
        self._failed = {k: failed for k, failed in self._failed.items() if failed[0] > now}
        self._failed[key] = now + limits.ENVIRONMENT_FAILED_S, text

    def key(self, recipe: Recipe) -> str:
        """The name of a recipe's environment on this machine: another Python here makes another one."""
        own = "" if is_foreign(recipe) else f"{sys.version} {sys.base_prefix}"
        return recipe.key(own, sysconfig.get_platform())

    async def _make(self, key: str, recipe: Recipe) -> Place:
        place = Place(key, self._folder / key, is_foreign(recipe))
        if key in self._leases and is_whole(place):
            _touch(place.folder)
            return place
        make_private_folder(self._folder / "locks")
        path, now = self._lock_of(key), Holder(os.getpid())
        lock = await on_thread(lambda: Lock(path, now, wait=True), unwanted=Lock.release)
        try:
            built = not is_whole(place)
            if built:
                await self._build(place, recipe, lock)
            _touch(place.folder)
            if key not in self._leases:
                self._leases[key] = Lock(self._folder / f"{key}.{self._agent}.use", now)
        except (errors.EnvironmentFailed, OSError) as error:
            text = str(error) if isinstance(error, errors.EnvironmentFailed) else f"its folder: {error}"
            self.on_failed(key, text)
            log.warning("environment %s: %s", key, text)
            if not is_whole(place):  # else it is only not for us, and may be in use
                await on_thread(lambda: shutil.rmtree(place.folder, ignore_errors=True))
            raise errors.EnvironmentFailed(text) from None
        finally:
            lock.release()
        if built:
            self._collecting = asyncio.get_running_loop().create_task(self.collect())
        return place

    async def _build(self, place: Place, recipe: Recipe, lock: Lock) -> None:
        """Make it from nothing. The lock is held, by uv too."""
        folder, keep, began = place.folder, (lock.fileno(),), time.monotonic()
        what = f"{len(recipe.requirements)} requirements, Python {recipe.python or 'as here'}"  # which may hold secrets
        log.info("building environment %s: %s", place.key, what)
        self.builds += 1
        await on_thread(lambda: shutil.rmtree(folder, ignore_errors=True))
        python = recipe.python if place.foreign or recipe.python.count(".") > 1 else sys.executable
        await self._uv.run(self._folder, "venv", "--no-project", "--python", python, str(folder), keep=keep)
        wanted, limit = folder / "requirements.txt", folder / "constraints.txt"
        own = own_requirements()
        # In an environment of the node's own version a slot finds what it needs with the node.
        lines = [*recipe.requirements, *(own if place.foreign else ())]
        if lines:
            wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
            limit.write_text("\n".join([*own, *recipe.constraints]) + "\n", encoding="utf-8")
            arguments = ("pip", "install", "--python", str(place.python), "-r", str(wanted), "-c", str(limit))
            await self._uv.run(self._folder, *arguments, keep=keep)
        size = await on_thread(lambda: _size(folder))
        stamp = Stamp(recipe, size, time.monotonic() - began)
        draft = folder / f".{_STAMP}"
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(stamp)))
        draft.replace(folder / _STAMP)
        log.info("environment %s is built: %.1f MB in %.1f s", place.key, size / limits.MB, stamp.seconds)

    # ---- forgetting

    def release(self, used: set[str]) -> None:
        """Environments that no slot of this agent runs in, and that nobody here waits for, may be removed by whoever collects."""
        for key in [key for key in self._leases if key not in used and not self._wanted[key]]:
            _touch(self._folder / key)
            _give_up(self._leases.pop(key))

    async def collect(self) -> None:
        """Remove what was not used for long, and what is beyond the limits of number and size. What is in use stays."""
        keep = frozenset(self._leases)
        try:
            await on_thread(lambda: self._collect(keep))
        except OSError as error:
            log.warning("old environments could not be removed: %s", error)

    def _collect(self, keep: frozenset[str]) -> None:
        """On a thread. The newest first, as far as they fit."""
        now, room, number = time.time(), limits.ENVIRONMENTS_BYTES_MAX, limits.ENVIRONMENTS_MAX
        for used_at, folder, size in sorted(self._found(), reverse=True):
            room -= size
            number -= 1
            old = now - used_at > limits.ENVIRONMENT_AGE_S
            if (old or room < 0 or number < 0) and folder.name not in keep and self._remove(folder):
                room += size
                number += 1

    def _found(self) -> list[tuple[float, Path, int]]:
        """What is there: when it was used last, its folder, its bytes. What is half built is as old as its folder."""
        found = []
        with contextlib.suppress(OSError):
            for folder in [path for path in self._folder.iterdir() if len(path.name) == _KEY_CHARACTERS]:
                stamp, used_at, size = _read_stamp(folder), 0.0, 0
                with contextlib.suppress(OSError):
                    used_at = ((folder / _STAMP) if stamp else folder).stat().st_mtime
                    size = stamp.size if stamp else 0
                found.append((used_at, folder, size))
        return found

    def _remove(self, folder: Path) -> bool:
        """Whether it is gone: nobody builds it, nobody uses it."""
        key = folder.name
        try:
            lock = Lock(self._lock_of(key), Holder(os.getpid()))
        except (errors.FarmRunning, OSError):
            return False
        with lock:
            for use in self._folder.glob(f"{key}.*.use"):
                if holder(use) is not None:
                    return False
                use.unlink(missing_ok=True)  # of an agent that was killed
            (folder / _STAMP).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        log.info("environment %s is removed: it was not used for long, or there are too many", key)
        return True

    def _lock_of(self, key: str) -> Path:
        return self._folder / "locks" / key[:_LOCK_DIGITS]

    def close(self) -> None:
        """Stop building, and use nothing any more."""
        for task in (*self._making.values(), self._collecting):
            if task is not None:
                task.cancel()
        self._uv.close()
        for lock in self._leases.values():
            _give_up(lock)
        self._leases.clear()


def is_foreign(recipe: Recipe) -> bool:
    """Whether it wants another minor version than that of this node's interpreter."""
    return bool(recipe.python) and recipe.minor != f"{sys.version_info.major}.{sys.version_info.minor}"


def is_whole(place: Place) -> bool:
    """Whether it was built to its end, and its interpreter has not gone since."""
    return (place.folder / _STAMP).exists() and place.python.exists()


def kept_environments(cache: Path) -> tuple[int, int]:
    """How many are whole in this cache, and the bytes of their files."""
    stamps = [stamp for folder in (cache / "envs").glob("*") if (stamp := _read_stamp(folder))]
    return len(stamps), sum(stamp.size for stamp in stamps)


def own_requirements() -> list[str]:
    """What a slot itself imports, with the versions that Farmhand works with."""
    try:
        known = metadata.requires("farmhand") or []
    except metadata.PackageNotFoundError:  # it runs from its source
        known = []
    return [line for line in known if line.startswith(OWN_PACKAGES) and ";" not in line] or list(OWN_PACKAGES)


def _read_stamp(folder: Path) -> Stamp | None:
    try:
        return msgspec.json.decode((folder / _STAMP).read_bytes(), type=Stamp)
    except (OSError, msgspec.MsgspecError):
        return None


def _touch(folder: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(folder / _STAMP)


def _give_up(lock: Lock) -> None:
    lock.path.unlink(missing_ok=True)
    lock.release()


def _size(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118 - a Path for each of 10,000 files takes a second
    return total
