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
from collections.abc import Callable, Iterator
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from farmhand.code.hashing import content_hash
from farmhand.code.limits import BUNDLE_BYTES_MAX, BUNDLE_FILES_MAX, LOADED_CODE_BYTES_MAX, LOADED_CODE_MAX
from farmhand.code.namespaces import Collected, Made, changes_since, marks_of
from farmhand.code.state import KEPT_MAX, Item, Memory, items_behind
from farmhand.code.values import Entry, pack_result
from farmhand.errors import ArgumentsUndecodable, BadMessage
from farmhand.model.messages import State

__all__ = ["Loader", "pack_result"]

_STATELESS: Final = (types.FunctionType, types.BuiltinFunctionType, type, type(functools.lru_cache(lambda: None)))


class Loaded(NamedTuple):
    """A callable as it was packed, ready to be called; see `Loader.begin`."""

    key: tuple[str, tuple[str, ...]]
    fn: Callable[..., Any]
    blob: bytes
    items: list[Item]  # what its calls can change of what came with it


class _Fresh:
    """A callable with state of its own: each call gets it as it was packed, not as the call before left it."""

    def __init__(self, first: Callable[..., Any], load: Callable[[], Callable[..., Any]]) -> None:
        self._next: Callable[..., Any] | None = first
        self._load = load

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        fn, self._next = self._next, None
        return (fn or self._load())(*args, **kwargs)


class _Kept:
    """What calls of one owner left: their callables with their globals, and the data that those share by module and name."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, tuple[str, ...]], tuple[Callable[..., Any], Made]] = {}
        self._data: dict[str, dict[str, Any]] = {}
        self._last: Made = []

    def callable_of(self, code: Loaded, read: Callable[[bytes], tuple[Callable[..., Any], Made]]) -> Callable[..., Any]:
        """The callable, with what was left in its globals."""
        for name, namespace in self._last:
            self._data.setdefault(name, {}).update(_data_in(namespace))
        if code.key not in self._codes:
            self._codes[code.key] = read(code.blob)
        fn, self._last = self._codes[code.key]
        for name, namespace in self._last:
            namespace.update(self._data.get(name, {}))
        return fn

    def drop_bundled(self) -> None:
        """Other versions of the user's modules are wanted: what came with the old ones goes."""
        self._codes = {key: found for key, found in self._codes.items() if not key[1]}


def _data_in(namespace: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in namespace.items():
        if name != "__builtins__" and not isinstance(value, types.ModuleType | types.FunctionType | type):
            yield name, value


class Loader:
    """Runs packed callables in this process. `cache_dir` is shared by the slots of a node."""

    def __init__(self, cache_dir: Path) -> None:
        self._folder = cache_dir / "bundles"
        self._codes: OrderedDict[tuple[str, tuple[str, ...]], Loaded] = OrderedDict()
        self._memory = Memory()  # of the user's modules
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._size = 0  # bytes of what is in there
        self._active: tuple[str, ...] = ()
        self._paths: list[str] = []
        self._tops: dict[str, tuple[str, ...]] = {}  # of each bundle that was looked into
        self._loaded: dict[str, str] = {}  # top-level name to the bundle that its modules come from
        self._left: dict[str, dict[str, Any]] = {}  # module name to what its initializer assigned
        self._hook = functools.partial(_find_in_bundles, str(self._folder), self._on_imported)
        sys.path_hooks.insert(0, self._hook)

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
                self._size -= len(self._codes.pop(key).blob)
            for kept in self._kept.values():
                kept.drop_bundled()
        # A module of the node's own with the same name would be found instead of the bundle's.
        self._drop({top: bundle for top, bundle in wanted.items() if top not in self._loaded})
        self._loaded.update(wanted)
        stale = set(self._paths)
        self._paths = [str(self._folder / bundle) for bundle in bundles]
        sys.path[:] = self._paths + [path for path in sys.path if path not in stale]
        self._active = bundles
        importlib.invalidate_caches()

    def close(self) -> None:
        """Another loader takes over in this process: what came from bundles is not to be found any more."""
        self._drop(self._loaded)
        self._loaded = {}
        stale = set(self._paths)
        sys.path[:] = [path for path in sys.path if path not in stale]
        sys.path_hooks.remove(self._hook)
        for path in [path for path in sys.path_importer_cache if path.startswith(str(self._folder))]:
            del sys.path_importer_cache[path]

    def load_code(self, code_hash: str, blob: bytes, bundles: tuple[str, ...]) -> Loaded:
        """The callable of a blob, with its bundles active. Remembered by hash; what unpickling raises is raised."""
        self.activate(bundles)
        key = (code_hash, bundles)
        known = self._codes.get(key)
        if known is not None:
            self._codes.move_to_end(key)
            return known
        self._memory.begin("", "")  # what is unpickled shall not bind what an earlier call left
        fn, made = self._read(blob)
        names = {name for name, _ in made} | {"__main__"}
        items = items_behind([namespace for _, namespace in made], fn, lambda module: module in names)
        self._codes[key] = code = Loaded(key, fn, blob, items)
        self._size += len(blob)
        while len(self._codes) > LOADED_CODE_MAX or (self._size > LOADED_CODE_BYTES_MAX and len(self._codes) > 1):
            self._size -= len(self._codes.popitem(last=False)[1].blob)
        return code

    def begin(self, code: Loaded, state: State) -> Callable[..., Any]:
        """Before each call: what to call, with its globals and modules in the wanted state."""
        start, leave = state.start, state.leave
        self._memory.begin(start, leave)
        if not start and not leave:
            for item in code.items:
                item.restore(item.base)
            return code.fn
        kept = (self._kept.pop(start, None) if start else None) or _Kept()
        if leave:
            self._kept[leave] = kept
            self._kept.move_to_end(leave)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return kept.callable_of(code, self._read)

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
        self.forget_initializer()
        self.activate(bundles)
        with Collected() as made:
            fn = pickle.loads(blob)
        marks = [marks_of(namespace) for _, namespace in made]
        self.call(fn, entry)
        for (name, namespace), before in zip(made, marks, strict=True):
            self._left.setdefault(name, {}).update(changes_since(before, namespace))
        self._memory.after_initializer()

    def forget_initializer(self) -> None:
        """Another session's calls come, which begin from what imports left."""
        self._left = {}
        self._codes.clear()
        self._size = 0
        self._memory.forget_initializer()

    def _read(self, blob: bytes) -> tuple[Callable[..., Any], Made]:
        """A callable and the globals that came with it. An object with state, such as a bound method, is new for each call."""
        fn, made = self._unpickle(blob)
        if not isinstance(fn, _STATELESS):
            fn = _Fresh(fn, lambda: self._unpickle(blob)[0])
        return fn, made

    def _unpickle(self, blob: bytes) -> tuple[Callable[..., Any], Made]:
        with Collected() as made:
            fn: Callable[..., Any] = pickle.loads(blob)
        self._overlay(made)
        return fn, made

    def _on_imported(self, module: types.ModuleType) -> None:
        """A module of a bundle has run."""
        name = module.__name__
        self._memory.add(name, items_behind([vars(module)], None, lambda owner: owner == name))

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
        self._memory.drop(tops)
        for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
            del sys.modules[name]


class _BundleLoader(SourceFileLoader):
    """Imports a module of a bundle, and says so while it is as it was imported."""

    def __init__(self, then: Callable[[types.ModuleType], None], name: str, path: str) -> None:
        super().__init__(name, path)
        self._then = then

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        self._then(module)


def _find_in_bundles(folder: str, then: Callable[[types.ModuleType], None], path: str) -> FileFinder:
    """A hook of the import system for the folders of bundles."""
    if not path.startswith(folder):
        raise ImportError(path)
    return FileFinder(
        path,
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (functools.partial(_BundleLoader, then), SOURCE_SUFFIXES),  # type: ignore[arg-type]
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )


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
