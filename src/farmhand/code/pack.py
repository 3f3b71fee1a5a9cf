"""The client side: callables, arguments and the bundles they need.

The fast path is what counts here: a function that was packed before costs one dictionary look-up and a check that it
is still the same, and arguments that are plain atoms are not pickled at all until their batch is.
"""

from __future__ import annotations

import functools
import pickle
import sys
import time
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from farmhand.code.bundle import Bundle, BundleStore
from farmhand.code.hashing import content_hash
from farmhand.code.limits import CODE_CACHE_ENTRIES, NEEDS_CACHE_ENTRIES, RELOAD_CHECK_S
from farmhand.code.origin import Origin, origin_of, reference_module
from farmhand.code.pickler import pickle_code, pickle_value
from farmhand.code.snapshot import WRAPPER, Snapshot, take_snapshot
from farmhand.code.values import PROTOCOL, Buffer, Entry, is_plain, is_simple, type_name, write_value

Specs = tuple[tuple[str, Any], ...]


class Code(NamedTuple):
    """A packed callable. `hash` names `blob`; `bundles` are the hashes of the bundles that it needs, sorted."""

    hash: str
    blob: bytes
    bundles: tuple[str, ...]


class _Needs:
    """What a set of the user's modules needs, and what these modules were when it was found out."""

    __slots__ = ("bundles", "checked", "modules", "specs")

    def __init__(self, modules: frozenset[str], bundles: tuple[str, ...], specs: Specs) -> None:
        self.modules = modules
        self.bundles = bundles
        self.specs = specs
        self.checked = time.monotonic()


_NOTHING = _Needs(frozenset(), (), ())


class _Entry(NamedTuple):
    ref: weakref.ref[Any]
    code: Code
    snapshot: Snapshot | None  # None: by reference, nothing of the function itself travels
    needs: _Needs


class Packer:
    """Packs for one client. May be used from several threads.

    A callable is packed as it is at that moment: its globals, closure and attributes go with it if it goes by value.
    The user's modules go as they were loaded, or as their files are if they are not.
    """

    def __init__(self) -> None:
        self._store = BundleStore()
        self._entries: dict[int, _Entry] = {}
        self._needs: dict[frozenset[str], _Needs] = {}

    def code_for(self, fn: Callable[..., Any]) -> Code:
        """The callable as code. What pickling raises is raised; also `BundleTooLarge`."""
        entry = self._entries.get(id(fn))
        if entry is not None and entry.ref() is fn:
            snapshot = entry.snapshot
            if snapshot is None or snapshot.holds():
                needs = entry.needs
                if needs is _NOTHING or self._is_current(needs):
                    return entry.code
        return self._pack(fn)

    def bundle(self, wanted: str) -> Bundle:
        """The bundle of a hash that `code_for` or `pack_call` named."""
        return self._store.bundle(wanted)

    def pack_call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Any] | None = None
    ) -> tuple[Entry, tuple[str, ...]]:
        """The arguments as an entry, and the bundles that they need. `inputs` as in `CodePickler`.

        What pickling raises is raised, with a note that names the argument.
        """
        if not kwargs and is_plain(args):
            return args, ()
        if is_simple((args, kwargs)):
            return pickle.dumps((args, kwargs), PROTOCOL), ()
        try:
            entry, modules = pickle_value((args, kwargs), inputs)
        except Exception as error:
            _blame(error, args, kwargs)
            raise
        return entry, self._needs_of(modules).bundles

    def pack_call_into(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], write: Callable[[Buffer], object],
        inputs: list[Any] | None = None, take: Callable[[pickle.PickleBuffer], bool] | None = None,
    ) -> tuple[str, ...]:  # fmt: skip
        """`pack_call` for large arguments: writes the bytes entry piece by piece, and makes no second copy of it.

        A piece that is not `bytes` is a view of an argument: send or copy it before `write` returns. The node reads
        them with `load_from`, which gives `(args, kwargs)`.
        """
        try:
            modules = write_value((args, kwargs), write, inputs, take)
        except Exception as error:
            _blame(error, args, kwargs)
            raise
        return self._needs_of(modules).bundles

    def bundles_of(self, modules: set[str]) -> tuple[str, ...]:
        """The bundles that these modules of the user need."""
        return self._needs_of(modules).bundles

    def _pack(self, fn: Callable[..., Any]) -> Code:
        snapshot = None
        remembered = _is_lasting(fn)
        if remembered and not _goes_by_reference(fn):
            snapshot = take_snapshot(fn)
            remembered = snapshot is not None
        blob, modules = pickle_code(fn)
        needs = self._needs_of(modules)
        code = Code(content_hash(blob), blob, needs.bundles)
        key = id(fn)
        if remembered:
            if len(self._entries) >= CODE_CACHE_ENTRIES:
                for old in list(self._entries)[: CODE_CACHE_ENTRIES // 2]:
                    self._entries.pop(old, None)
            # The entry goes when the function does, before its id can be given to another.
            ref = weakref.ref(fn, functools.partial(self._entries.pop, key))
            self._entries[key] = _Entry(ref, code, snapshot, needs)
        else:
            self._entries.pop(key, None)
        return code

    def _needs_of(self, modules: set[str]) -> _Needs:
        if not modules:
            return _NOTHING
        key = frozenset(modules)
        needs = self._needs.get(key)
        if needs is not None and self._is_current(needs):
            return needs
        bundles = self._store.hashes_for(modules)
        loaded = [(name, sys.modules.get(name)) for name in modules if origin_of(name) is Origin.USER]
        if not bundles:
            return _NOTHING
        specs = tuple((name, getattr(module, "__spec__", None)) for name, module in loaded)
        if len(self._needs) >= NEEDS_CACHE_ENTRIES:
            self._needs.clear()
        needs = self._needs[key] = _Needs(key, bundles, specs)
        return needs

    def _is_current(self, needs: _Needs) -> bool:
        for name, spec in needs.specs:
            module = sys.modules.get(name)
            if getattr(module, "__spec__", None) is not spec:
                return False
        now = time.monotonic()
        if now - needs.checked > RELOAD_CHECK_S:
            if self._store.hashes_for(needs.modules) != needs.bundles:
                return False
            needs.checked = now
        return True


def _is_lasting(fn: Any) -> bool:
    """Whether it is an object that stays, and not one that is made for each call such as a bound method."""
    kind = type(fn)
    if kind is types.BuiltinFunctionType:
        return fn.__self__ is None or isinstance(fn.__self__, types.ModuleType)
    return kind is types.FunctionType or isinstance(fn, type) or kind is WRAPPER or kind is functools.partial


def _goes_by_reference(fn: Any) -> bool:
    if type(fn) is functools.partial:
        return False
    return type(fn) is types.BuiltinFunctionType or reference_module(fn) is not None


def _blame(error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Finds the argument that cannot be pickled and names it in the error."""
    named = [(f"Argument {position} (counting from 0)", value) for position, value in enumerate(args)]
    named += [(f"Argument {name!r}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            write_value(value, lambda _: None, [])
        except Exception:  # noqa: BLE001 - it is the error at hand, or one like it
            error.add_note(f"{name}, of type {type_name(type(value))}, cannot be pickled.")
            return
