"""The slot side: bundles on the import path, callables from code, calls and their results.

One thread at a time: the import path and the loaded modules belong to the process.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import shutil
import sys
import tempfile
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from farmhand.code.hashing import content_hash
from farmhand.code.limits import BUNDLE_BYTES_MAX, BUNDLE_FILES_MAX, LOADED_CODE_BYTES_MAX, LOADED_CODE_MAX
from farmhand.code.namespaces import Collected, Made, changes_since, marks_of
from farmhand.code.values import Entry, pack_result
from farmhand.errors import ArgumentsUndecodable, BadMessage

__all__ = ["Loader", "pack_result"]

_STATELESS: Final = (types.FunctionType, types.BuiltinFunctionType, type, type(functools.lru_cache(lambda: None)))


class _Loaded(NamedTuple):
    fn: Callable[..., Any]
    size: int  # bytes, packed


class _Fresh:
    """A callable with state of its own: each call gets it as it was packed, not as the call before left it."""

    def __init__(self, first: Callable[..., Any], load: Callable[[], Callable[..., Any]]) -> None:
        self._next: Callable[..., Any] | None = first
        self._load = load

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        fn, self._next = self._next, None
        return (fn or self._load())(*args, **kwargs)


class Loader:
    """Runs packed callables in this process. `cache_dir` is shared by the slots of a node."""

    def __init__(self, cache_dir: Path) -> None:
        self._folder = cache_dir / "bundles"
        self._codes: OrderedDict[tuple[str, tuple[str, ...]], _Loaded] = OrderedDict()
        self._size = 0  # bytes of what is in there
        self._active: tuple[str, ...] = ()
        self._paths: list[str] = []
        self._tops: dict[str, tuple[str, ...]] = {}  # of each bundle that was looked into
        self._loaded: dict[str, str] = {}  # top-level name to the bundle that its modules come from
        self._left: dict[str, dict[str, Any]] = {}  # module name to what its initializer assigned

    def has_bundle(self, wanted: str) -> bool:
        """Whether the bundle of this hash is in the cache."""
        return (self._folder / wanted).is_dir()

    def add_bundle(self, wanted: str, blob: bytes) -> None:
        """Unpacks a bundle into the cache, whole or not at all; several processes may do so at once.

        Raises:
            BadMessage: it is not the bundle of this hash, or it wants to write outside of its folder.
        """
        target = self._folder / wanted
        if target.is_dir():
            return
        if content_hash(blob) != wanted:
            raise BadMessage(f"the bundle {wanted} does not have the content that its name says")
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=self._folder))
        try:
            _unpack(blob, fresh)
            fresh.rename(target)
        except OSError:
            # Another process was first; anything else is an error.
            if not target.is_dir():
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def activate(self, bundles: tuple[str, ...]) -> None:
        """Puts these bundles, and no others, in front of the import path.

        If another version of one of their modules is loaded, all modules that came from bundles are dropped: each of
        them may hold on to the old version.

        Raises:
            BadMessage: a bundle is not in the cache.
        """
        if bundles == self._active:
            return
        wanted = {top: bundle for bundle in bundles for top in self._names_in(bundle)}
        if any(self._loaded.get(top, bundle) != bundle for top, bundle in wanted.items()):
            self._drop(self._loaded)
            self._loaded = {}
            for key in [key for key in self._codes if key[1]]:
                self._size -= self._codes.pop(key).size
        # A module of the node's own with the same name would be found instead of the bundle's.
        self._drop({top: bundle for top, bundle in wanted.items() if top not in self._loaded})
        self._loaded.update(wanted)
        stale = set(self._paths)
        self._paths = [str(self._folder / bundle) for bundle in bundles]
        sys.path[:] = self._paths + [path for path in sys.path if path not in stale]
        self._active = bundles
        importlib.invalidate_caches()

    def load_code(self, code_hash: str, blob: bytes, bundles: tuple[str, ...]) -> Callable[..., Any]:
        """The callable of a blob, with its bundles active. Remembered by hash; what unpickling raises is raised.

        A function stays what it is between calls, with its globals, as in a process pool. An object with state, such as
        a bound method or a partial, is made anew for each call.
        """
        self.activate(bundles)
        key = (code_hash, bundles)
        known = self._codes.get(key)
        if known is not None:
            self._codes.move_to_end(key)
            return known.fn
        fn = self._read(blob)
        if not isinstance(fn, _STATELESS):
            fn = _Fresh(fn, lambda: self._read(blob))
        self._codes[key] = _Loaded(fn, len(blob))
        self._size += len(blob)
        while len(self._codes) > LOADED_CODE_MAX or (self._size > LOADED_CODE_BYTES_MAX and len(self._codes) > 1):
            self._size -= self._codes.popitem(last=False)[1].size
        return fn

    def has_code(self, code_hash: str, bundles: tuple[str, ...]) -> bool:
        """Whether `load_code` needs no blob for this."""
        return (code_hash, bundles) in self._codes

    def call(self, fn: Callable[..., Any], entry: Entry | bytearray | memoryview) -> Any:
        """Calls with the arguments of an entry. What a coroutine function returns is awaited in a loop of its own."""
        if type(entry) is tuple:
            return _finished(fn(*entry))
        args, kwargs = self._arguments(lambda: pickle.loads(entry))  # type: ignore[arg-type]
        return _finished(fn(*args, **kwargs))

    def call_from(self, fn: Callable[..., Any], file: Any) -> Any:
        """Calls with arguments that are read from a file, as `values.load_from` reads them."""
        args, kwargs = self._arguments(lambda: pickle.load(file))
        return _finished(fn(*args, **kwargs))

    def run_initializer(self, code_hash: str, blob: bytes, bundles: tuple[str, ...], entry: Entry) -> None:
        """Runs a session's initializer. What it assigns to globals is seen by the functions that are loaded later.

        Call it once a session and before its first task; what an earlier session's initializer left is forgotten.
        """
        self._left = {}
        self._codes.clear()
        self._size = 0
        self.activate(bundles)
        with Collected() as made:
            fn = pickle.loads(blob)
        marks = [marks_of(namespace) for _, namespace in made]
        self.call(fn, entry)
        for (name, namespace), before in zip(made, marks, strict=True):
            self._left.setdefault(name, {}).update(changes_since(before, namespace))

    def _read(self, blob: bytes) -> Callable[..., Any]:
        with Collected() as made:
            fn: Callable[..., Any] = pickle.loads(blob)
        self._overlay(made)
        return fn

    def _arguments(self, read: Callable[[], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        try:
            with Collected() as made:
                args, kwargs = read()
        except BaseException as error:
            raise ArgumentsUndecodable(
                f"the task's arguments could not be unpickled on the node: {type(error).__name__}: {error}"
            ) from error
        self._overlay(made)
        return args, kwargs

    def _overlay(self, made: Made) -> None:
        if self._left:
            for name, namespace in made:
                namespace.update(self._left.get(name, {}))

    def _names_in(self, bundle: str) -> tuple[str, ...]:
        names = self._tops.get(bundle)
        if names is None:
            try:
                found = [path.name for path in (self._folder / bundle).iterdir()]
            except FileNotFoundError:
                raise BadMessage(f"the bundle {bundle} is not in this node's cache") from None
            names = self._tops[bundle] = tuple({name.partition(".")[0] for name in found} - {"__pycache__"})
        return names

    def _drop(self, tops: dict[str, str]) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
            del sys.modules[name]


def _unpack(blob: bytes, folder: Path) -> None:
    try:
        archive = zipfile.ZipFile(io.BytesIO(blob))
    except zipfile.BadZipFile as error:
        raise BadMessage(f"a bundle is not a zip archive: {error}") from None
    with archive:
        entries = archive.infolist()
        if len(entries) > BUNDLE_FILES_MAX or sum(entry.file_size for entry in entries) > BUNDLE_BYTES_MAX:
            raise BadMessage("a bundle is larger than the limit")
        for entry in entries:
            parts = PurePosixPath(entry.filename).parts
            if entry.is_dir() or not all(map(_is_safe, parts)):
                raise BadMessage(f"a bundle wants to write to {entry.filename!r}")
            path = folder.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            # zipfile reads no more of an entry than the size that was checked above.
            path.write_bytes(archive.read(entry))


def _is_safe(part: str) -> bool:
    return part not in {"..", ".", "/", ""} and "\\" not in part and ":" not in part and "\0" not in part


def _finished(value: Any) -> Any:
    if type(value) is types.CoroutineType:
        import asyncio

        return asyncio.run(value)
    return value
