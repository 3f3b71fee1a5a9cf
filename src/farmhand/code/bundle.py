"""The source of the user's own modules as deterministic archives, one a top-level module or package, named by content.

A bundle is what the client runs, not what lies on its disk at the moment: while modules of a name are loaded and none
of them was loaded anew, the bundle that was made first stays. Without loaded modules, or after a reload, the files
decide. Imports are read from the syntax tree; what code imports by a computed name is not seen.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import stat
import sys
import threading
import types
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, all_suffixes
from pathlib import Path
from typing import Final, NamedTuple

from farmhand.code.hashing import content_hash
from farmhand.code.limits import (
    BUNDLE_BYTES_MAX,
    BUNDLE_FILES_MAX,
    BUNDLE_VERSIONS_KEPT,
    DATA_FILE_BYTES_MAX,
    MB,
    PARSED_BYTES_MAX,
)
from farmhand.code.origin import MAIN_NAMES, OWN_PACKAGE, Origin, import_root, is_installed, origin_of, package_folders
from farmhand.errors import BundleTooLarge

SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "node_modules"})
CODE_SUFFIXES: Final = tuple(all_suffixes())
ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


class Bundle(NamedTuple):
    """A zip archive to be put on the import path. `names` are the top-level names in it."""

    hash: str
    names: tuple[str, ...]
    blob: bytes


class _File(NamedTuple):
    inner: str  # path in the archive
    path: str
    mtime_ns: int
    size: int


class _Built(NamedTuple):
    files: tuple[_File, ...]
    specs: dict[str, ModuleSpec | None]  # of the loaded modules of this name
    imports: frozenset[str]
    bundle: Bundle


class BundleStore:
    """Makes bundles and remembers them. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._built: dict[str, _Built] = {}
        self._kept: dict[str, list[Bundle]] = {}
        self._imports: dict[str, tuple[int, int, frozenset[str]]] = {}

    def hashes_for(self, names: Iterable[str]) -> tuple[str, ...]:
        """The bundles that the modules of these names need, themselves and what they import, as sorted hashes.

        Raises:
            BundleTooLarge: a module or package is above the limits.
        """
        with self._lock:
            done: dict[str, str] = {}
            waiting = {name.partition(".")[0] for name in names}
            while waiting:
                top = waiting.pop()
                if top in done or not _is_users(top):
                    continue
                built = self._current(top)
                done[top] = built.bundle.hash
                waiting |= built.imports - done.keys()
            return tuple(sorted(set(done.values())))

    def bundle(self, wanted: str) -> Bundle:
        """The bundle of this hash, which `hashes_for` named before; KeyError for one that is long superseded."""
        for versions in self._kept.values():
            for bundle in versions:
                if bundle.hash == wanted:
                    return bundle
        raise KeyError(wanted)

    def _current(self, top: str) -> _Built:
        specs = _loaded_specs(top)
        known = self._built.get(top)
        if known is not None and specs and _same_specs(known.specs, specs):
            return known
        files = tuple(_source_files(top))
        unchanged = known is not None and known.files == files
        built = known._replace(specs=specs) if known is not None and unchanged else self._build(top, files, specs)
        self._built[top] = built
        return built

    def _build(self, top: str, files: tuple[_File, ...], specs: dict[str, ModuleSpec | None]) -> _Built:
        imports: set[str] = set()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                content = Path(file.path).read_bytes()
                archive.writestr(zipfile.ZipInfo(file.inner, ZIP_EPOCH), content, zipfile.ZIP_DEFLATED)
                if file.path.endswith(".py"):
                    imports |= self._imports_of(file, content)
        blob = packed.getvalue()
        bundle = Bundle(content_hash(blob), (top,), blob)
        versions = self._kept.setdefault(top, [])
        older = [v for v in versions if v.hash != bundle.hash]
        versions[:] = [*older[1 - BUNDLE_VERSIONS_KEPT :], bundle]
        return _Built(files, specs, frozenset(imports - {top}), bundle)

    def _imports_of(self, file: _File, content: bytes) -> frozenset[str]:
        known = self._imports.get(file.path)
        if known is not None and known[:2] == (file.mtime_ns, file.size):
            return known[2]
        found = frozenset(_absolute_imports(content))
        self._imports[file.path] = (file.mtime_ns, file.size, found)
        return found


def _parse(content: bytes) -> ast.Module:
    try:
        return ast.parse(content)
    except (
        SystemError
    ):  # Python 3.11 miscounts its depth when another thread ran out of stack (gh-106905); once is enough
        return ast.parse(content)


def _absolute_imports(content: bytes) -> Iterator[str]:
    if len(content) > PARSED_BYTES_MAX:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's string escapes: not for us to report
            tree = _parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # a template or a file for another Python; whoever imports it gets the error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def _is_users(top: str) -> bool:
    if not top or top in MAIN_NAMES or top == OWN_PACKAGE:
        return False
    if top in sys.modules:
        return origin_of(top) is Origin.USER
    if top in sys.stdlib_module_names:
        return False
    spec = _find(top)
    if spec is None:
        return False
    folders = list(spec.submodule_search_locations or ())
    if spec.has_location and spec.origin:
        return not is_installed(spec.origin) and import_root(top, spec.origin) is not None
    return bool(folders) and not all(map(is_installed, folders))


def _find(top: str) -> ModuleSpec | None:
    """Where a module that is not loaded would come from. A top-level name is found without importing anything."""
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None


def _loaded_specs(top: str) -> dict[str, ModuleSpec | None]:
    """`importlib.reload` and a fresh import give a module a new spec: it tells that code was loaded anew."""
    inner = top + "."
    loaded = sys.modules.copy()
    return {n: getattr(m, "__spec__", None) for n, m in loaded.items() if n == top or n.startswith(inner)}


def _same_specs(before: dict[str, ModuleSpec | None], now: dict[str, ModuleSpec | None]) -> bool:
    # By identity: the spec of a reload equals the one before.
    return before.keys() == now.keys() and all(before[name] is spec for name, spec in now.items())


def _source_files(top: str) -> list[_File]:
    file, folders = _location(top)
    found: list[_File] = []
    if folders:
        for folder in folders:
            if not is_installed(folder):
                _collect(Path(folder), top, found, set())
    elif file is not None:
        path = Path(file)
        found.append(_entry(path.name, path, path.stat()))
    unique = {file.inner: file for file in reversed(found)}  # of two portions with the same path the first one counts
    files = sorted(unique.values())
    _check_limits(top, file or ", ".join(folders), files)
    return files


def _location(top: str) -> tuple[str | None, list[str]]:
    module = sys.modules.get(top)
    if isinstance(module, types.ModuleType):
        return getattr(module, "__file__", None), package_folders(module)
    spec = _find(top)
    if spec is None:
        return None, []
    return (spec.origin if spec.has_location else None), list(spec.submodule_search_locations or ())


def _collect(folder: Path, inner: str, found: list[_File], seen: set[tuple[int, int]]) -> None:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if (identity in seen and status.st_ino) or len(found) > BUNDLE_FILES_MAX:
        return  # a link back to a folder above, or already too much
    seen.add(identity)
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            if entry.is_dir():
                if entry.name not in SKIPPED_FOLDERS and not (path / "pyvenv.cfg").exists():
                    _collect(path, f"{inner}/{entry.name}", found, seen)
            elif entry.is_file() and _belongs(entry):
                found.append(_entry(f"{inner}/{entry.name}", path, entry.stat()))


def _belongs(entry: os.DirEntry[str]) -> bool:
    if entry.name.endswith(".pyc"):
        return False
    return entry.name.endswith(CODE_SUFFIXES) or entry.stat().st_size < DATA_FILE_BYTES_MAX


def _entry(inner: str, path: Path, status: os.stat_result) -> _File:
    assert stat.S_ISREG(status.st_mode)
    return _File(inner, str(path), status.st_mtime_ns, status.st_size)


def _check_limits(top: str, where: str, files: list[_File]) -> None:
    total = sum(file.size for file in files)
    if total > BUNDLE_BYTES_MAX:
        largest = max(files, key=lambda file: file.size)
        raise BundleTooLarge(
            f"the module {top} ({where}) is {total / MB:.1f} MiB to ship, the limit is {BUNDLE_BYTES_MAX // MB} MiB; "
            f"its largest file is {largest.path} ({largest.size / MB:.1f} MiB). "
            "Move data out of the package, or install it on the nodes"
        )
    if len(files) > BUNDLE_FILES_MAX:
        raise BundleTooLarge(f"the module {top} ({where}) has more than {BUNDLE_FILES_MAX} files to ship")
