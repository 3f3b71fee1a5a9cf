"""Where a module comes from, and so how its functions and classes travel.

INSTALLED  the standard library, installed distributions, Farmhand itself: by reference, the node has them too
USER       a file of the user's that another process can import once it has the source: by reference, with a bundle
DYNAMIC    `__main__`, notebooks, modules without a file: nothing to import elsewhere, so by value

"""

from __future__ import annotations

import enum
import functools
import os
import sys
import types
import weakref
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, Final

from cloudpickle import cloudpickle as cp

MAIN_NAMES: Final = frozenset({"__main__", "__mp_main__"})
INSTALL_FOLDERS: Final = frozenset({"site-packages", "dist-packages"})
OWN_PACKAGE: Final = __name__.partition(".")[0]


class Origin(enum.Enum):
    """How what a module defines travels."""

    INSTALLED = "installed"
    USER = "user"
    DYNAMIC = "dynamic"


# Module and verdict by name. The module is compared, so that a name that is bound anew is judged anew.
_verdicts: dict[str, tuple[types.ModuleType | None, Origin]] = {}


def origin_of(module_name: str | None) -> Origin:
    """How what the module of this name defines travels. Looks at loaded modules only and imports nothing."""
    if module_name is None or module_name in MAIN_NAMES:
        return Origin.DYNAMIC
    module = sys.modules.get(module_name)
    known = _verdicts.get(module_name)
    if known is not None and known[0] is module:
        return known[1]
    verdict = _judge(module_name, module)
    _verdicts[module_name] = (module, verdict)
    return verdict


def _judge(name: str, module: types.ModuleType | None) -> Origin:
    if name.partition(".")[0] == OWN_PACKAGE:
        return Origin.INSTALLED
    if module is None:
        return Origin.DYNAMIC
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        if is_installed(file):
            return Origin.INSTALLED
        top = name.partition(".")[0]
        shippable = import_root(name, file) is not None and (top == name or origin_of(top) is Origin.USER)
        return Origin.USER if shippable else Origin.DYNAMIC
    folders = package_folders(module)
    if folders:
        return Origin.INSTALLED if all(map(is_installed, folders)) else Origin.USER
    if name in sys.builtin_module_names or getattr(module.__spec__, "origin", None) in {"built-in", "frozen"}:
        return Origin.INSTALLED
    parent = name.rpartition(".")[0]
    # An extension module may make submodules that have no file: they are where their parent is.
    if parent and origin_of(parent) is Origin.INSTALLED:
        return Origin.INSTALLED
    return Origin.DYNAMIC


def import_root(name: str, file: str) -> str | None:
    """The folder on the import path from which `name` is imported as `file`; None where names and folders differ."""
    path = Path(file)
    if not path.is_file():
        return None
    parts = name.split(".")
    tail = path.parent if path.name.partition(".")[0] == "__init__" else path.with_name(path.name.partition(".")[0])
    if list(tail.parts[-len(parts) :]) != parts:
        return None
    return str(Path(*tail.parts[: -len(parts)]))


def package_folders(module: types.ModuleType) -> list[str]:
    """The folders of a package, several for a namespace package; empty for a plain module."""
    try:
        return [entry for entry in getattr(module, "__path__", ()) if isinstance(entry, str)]
    except Exception:  # noqa: BLE001 - a module may answer attributes with code of its own
        return []


@functools.lru_cache(maxsize=8192)
def is_installed(path: str) -> bool:
    """Whether a file or folder belongs to the standard library or to an installed distribution."""
    absolute = os.path.abspath(path)  # noqa: PTH100 - a link into site-packages must stay as it is written
    if not INSTALL_FOLDERS.isdisjoint(PurePath(absolute).parts):
        return True
    return any(absolute == folder or absolute.startswith(folder + os.sep) for folder in _library_folders())


@functools.cache
def _library_folders() -> tuple[str, ...]:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = {str(Path(os.__file__).parent), os.path.realpath(Path(os.__file__).parent)}
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}:
        found.add(str(Path(prefix, "lib", version)))
        found.add(str(Path(prefix, "lib", version.replace(".", "") + ".zip")))
    return tuple(found)


def reference_module(obj: Any) -> str | None:
    """The module under whose name a function or class can be found again elsewhere; None if it must go by value."""
    name = getattr(obj, "__module__", None)
    if name is not None:
        if origin_of(name) is Origin.DYNAMIC:
            return None
        # What nearly all are: a name of the module itself. The general way costs ten times as much.
        if not cp._PICKLE_BY_VALUE_MODULES and getattr(sys.modules[name], "__dict__", {}).get(obj.__qualname__) is obj:
            return str(name)
    found = cp._lookup_module_and_qualname(obj)
    if found is None or cp._is_registered_pickle_by_value(found[0]):
        return None
    if name is None:  # cloudpickle searched every loaded module
        name = str(found[0].__name__)
        return None if origin_of(name) is Origin.DYNAMIC else name
    return str(name)


_code_imports: weakref.WeakKeyDictionary[types.CodeType, frozenset[str]] = weakref.WeakKeyDictionary()


def code_imports(code: types.CodeType) -> frozenset[str]:
    """Names of top-level modules that a function's body imports when it runs; "" stands for a relative import."""
    found = _code_imports.get(code)
    if found is None:
        found = _code_imports[code] = frozenset(_walk_imports(code))
    return found


def _walk_imports(code: types.CodeType) -> Iterator[str]:
    import dis

    previous: list[Any] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level = previous[0]
            relative = isinstance(level, int) and level > 0
            yield "" if relative else str(instruction.argval).partition(".")[0]
        if instruction.opname != "EXTENDED_ARG":
            previous = [previous[1], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _walk_imports(constant)
