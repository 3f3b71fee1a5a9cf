"""Whether a callable that was packed by value is still what it was.

A snapshot holds what the pickled bytes depend on: code, defaults, attributes, closure cells and globals of the
function and of all by-value functions and classes it reaches. Each is compared by identity, which proves something
only for what cannot change in place. One list, dictionary or object with state among them, and there is no snapshot:
it is packed anew each time.

Functions, classes and cells are held weakly or reached from the function, so that a snapshot keeps no closure alive.
"""

from __future__ import annotations

import enum
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any, Final

from cloudpickle import cloudpickle as cp

from farmhand.code.limits import SNAPSHOT_ITEMS_MAX, SNAPSHOT_PARTS_MAX
from farmhand.code.origin import Origin, origin_of, reference_module

MISSING: Final = object()
WRAPPER: Final = type(functools.lru_cache(lambda: None))

_ATOMS: Final = frozenset({int, float, bool, type(None), str, bytes, complex, range, type(...), type(NotImplemented)})
_DESCRIPTORS: Final = frozenset(
    {
        types.MethodDescriptorType,
        types.WrapperDescriptorType,
        types.ClassMethodDescriptorType,
        types.GetSetDescriptorType,
        types.MemberDescriptorType,
    }
)
# By name, so that none of them is imported for the question.
_FROZEN_TYPES: Final = frozenset({
    "re.Pattern", "logging.Logger", "logging.RootLogger", "decimal.Decimal", "fractions.Fraction", "uuid.UUID",
    "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "datetime.timezone",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "pathlib._local.PosixPath", "pathlib._local.WindowsPath", "numpy.ufunc", "typing.TypeVar", "types.UnionType",
    "types.GenericAlias", "typing._GenericAlias", "typing._SpecialForm",
})  # fmt: skip
# Made by Python or the standard library from what is compared anyway, or without effect on what runs.
_DERIVED_NAMES: Final = frozenset({
    "__annotations__", "__dict__", "__weakref__", "__doc__", "__abstractmethods__", "_abc_impl", "__slots__",
    "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__orig_bases__", "__parameters__",
    "__annotate_func__", "__annotations_cache__", "__static_attributes__", "__firstlineno__", "__type_params__",
    "__protocol_attrs__", "__slotnames__", "__non_callable_proto_members__",
})  # fmt: skip

# `__repr__` of a data class guards against recursion with a set of its own.
_STATEFUL_WRAPPERS: Final = frozenset({"dataclasses", "reprlib"})
_EMPTY: Final[dict[str, Any]] = {}


class Volatile(Exception):
    """Something was captured that can change in place."""


Collect = Callable[[Any], "weakref.ref[Any] | None"]


class _Bindings:
    """Names and what they were bound to: values by themselves, parts that are surveyed weakly."""

    __slots__ = ("size", "strong", "weak")

    def __init__(self, items: dict[Any, Any], collect: Collect) -> None:
        strong: list[tuple[Any, Any]] = []
        weak: list[tuple[Any, weakref.ref[Any]]] = []
        for key, value in items.items():
            part = collect(value)
            if part is None:
                strong.append((key, value))
            else:
                weak.append((key, part))
        self.size = len(items)
        self.strong = tuple(strong)
        self.weak = tuple(weak)

    def hold(self, get: Callable[[Any, Any], Any]) -> bool:
        for key, value in self.strong:
            if get(key, MISSING) is not value:
                return False
        for key, ref in self.weak:
            current = ref()
            if current is None or get(key, MISSING) is not current:
                return False
        return True

    def same_as(self, current: dict[str, Any]) -> bool:
        return len(current) == self.size and self.hold(current.get)


class _FunctionShape:
    __slots__ = ("attributes", "cells", "code", "defaults", "keywords", "names")

    def __init__(self, fn: types.FunctionType, collect: Collect) -> None:
        if fn.__globals__.get("__name__") in _STATEFUL_WRAPPERS:
            collect = _lenient(collect)
        self.code = fn.__code__
        self.defaults = fn.__defaults__
        for value in fn.__defaults__ or ():
            collect(value)
        self.keywords = _Bindings(fn.__kwdefaults__ or {}, collect)
        self.attributes = _Bindings(fn.__dict__, collect)
        namespace = fn.__globals__
        names = {name: namespace.get(name, MISSING) for name in cp._extract_code_globals(fn.__code__)}
        self.names = _Bindings(names, collect)
        self.cells = _Bindings({i: _content(cell) for i, cell in enumerate(fn.__closure__ or ())}, collect)

    def holds(self, fn: types.FunctionType) -> bool:
        # This runs at each submit: what is empty, as most is, costs one comparison.
        if fn.__code__ is not self.code or fn.__defaults__ is not self.defaults:
            return False
        keywords = fn.__kwdefaults__ or _EMPTY
        if (keywords or self.keywords.size) and not self.keywords.same_as(keywords):
            return False
        attributes = fn.__dict__
        if (attributes or self.attributes.size) and not self.attributes.same_as(attributes):
            return False
        if self.names.size and not self.names.hold(fn.__globals__.get):
            return False
        cells = fn.__closure__
        return cells is None or self.cells.hold(lambda index, _: _content(cells[index]))


def _lenient(collect: Collect) -> Collect:
    """For wrappers that a library makes and whose own state does not change what they do."""

    def collected(value: Any) -> weakref.ref[Any] | None:
        try:
            return collect(value)
        except Volatile:
            return None

    return collected


class _ClassShape:
    __slots__ = ("attributes", "bases", "size")

    def __init__(self, cls: type, collect: Collect) -> None:
        for base in (type(cls), *cls.__bases__):
            collect(base)
        self.bases = cls.__bases__
        names = {k: v for k, v in vars(cls).items() if k not in _DERIVED_NAMES}
        self.size = len(vars(cls))
        fixed = issubclass(cls, enum.Enum)
        self.attributes = _Bindings(names, lambda value: _collect_member(value, collect, fixed=fixed))

    def holds(self, cls: type) -> bool:
        found = vars(cls)
        return len(found) == self.size and cls.__bases__ == self.bases and self.attributes.hold(found.get)


class _WrapperShape:
    """What `functools.cache` and `lru_cache` make; its cache does not travel, so only the function matters."""

    __slots__ = ("attributes",)

    def __init__(self, wrapper: Any, collect: Collect) -> None:
        self.attributes = _Bindings({"__wrapped__": wrapper.__wrapped__}, collect)

    def holds(self, wrapper: Any) -> bool:
        return self.attributes.hold(wrapper.__dict__.get)


class _PartialShape:
    __slots__ = ("args", "attributes", "fn", "keywords")

    def __init__(self, partial: functools.partial[Any], collect: Collect) -> None:
        self.fn = _Bindings({"func": partial.func}, collect)
        self.args = partial.args
        collect(partial.args)
        self.keywords = _Bindings(partial.keywords, collect)
        self.attributes = _Bindings(vars(partial), collect)

    def holds(self, partial: functools.partial[Any]) -> bool:
        return (
            partial.args is self.args
            and self.fn.hold(lambda _, __: partial.func)
            and self.keywords.same_as(partial.keywords)
            and self.attributes.same_as(vars(partial))
        )


_Shape = _FunctionShape | _ClassShape | _WrapperShape | _PartialShape


class Snapshot:
    """What a by-value function or class and all that it reaches looked like."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[tuple[weakref.ref[Any], _Shape]]) -> None:
        self._parts = parts

    def holds(self) -> bool:
        """Whether nothing changed since, so that the packed bytes still stand for it."""
        for ref, shape in self._parts:
            part = ref()
            if part is None or not shape.holds(part):
                return False
        return True


class _Survey:
    def __init__(self) -> None:
        self.parts: list[tuple[weakref.ref[Any], _Shape]] = []
        self._seen: dict[int, Any] = {}
        self._waiting: list[Any] = []

    def take(self, root: Any) -> Snapshot:
        self._enlist(root)
        while self._waiting:
            part = self._waiting.pop()
            shape: _Shape
            if isinstance(part, types.FunctionType):
                shape = _FunctionShape(part, self.collect)
            elif isinstance(part, type):
                shape = _ClassShape(part, self.collect)
            elif type(part) is functools.partial:
                shape = _PartialShape(part, self.collect)
            else:
                shape = _WrapperShape(part, self.collect)
            self.parts.append((weakref.ref(part), shape))
        return Snapshot(self.parts)

    def collect(self, value: Any) -> weakref.ref[Any] | None:
        """None for a value whose identity says everything, a weak stand-in for one that is surveyed; else Volatile."""
        kind = type(value)
        if kind in _ATOMS or value is MISSING or kind in _DESCRIPTORS:
            return None
        if kind is types.FunctionType or isinstance(value, type) or kind is WRAPPER:
            if reference_module(value) is not None:
                return None
            return self._enlist(value)
        if kind is functools.partial:
            return self._enlist(value)
        if isinstance(value, types.ModuleType):
            if origin_of(value.__name__) is Origin.DYNAMIC:
                raise Volatile
            return None
        if kind is types.BuiltinFunctionType:
            if value.__self__ is None or isinstance(value.__self__, types.ModuleType | type):
                return None
            raise Volatile
        self._collect_frozen(value, kind)
        return None

    def _collect_frozen(self, value: Any, kind: type) -> None:
        if kind is tuple or kind is frozenset:
            if len(value) > SNAPSHOT_ITEMS_MAX:
                raise Volatile
            for item in value:
                self.collect(item)
            return
        if f"{kind.__module__}.{kind.__qualname__}" in _FROZEN_TYPES:
            return
        if isinstance(value, enum.Enum):
            self.collect(kind)
            return
        raise Volatile

    def _enlist(self, part: Any) -> weakref.ref[Any]:
        if id(part) not in self._seen:
            if len(self._seen) >= SNAPSHOT_PARTS_MAX:
                raise Volatile
            self._seen[id(part)] = part
            self._waiting.append(part)
        return weakref.ref(part)


def _collect_member(value: Any, collect: Collect, *, fixed: bool) -> weakref.ref[Any] | None:
    kind = type(value)
    if kind is staticmethod or kind is classmethod:
        collect(value.__func__)
        return None
    if kind is functools.cached_property:
        collect(value.func)
        return None
    if kind is property:
        for accessor in (value.fget, value.fset, value.fdel):
            collect(accessor)
        return None
    try:
        return collect(value)
    except Volatile:
        if fixed:  # what the members of an enumeration are is settled when its class is made
            return None
        raise


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def take_snapshot(root: Any) -> Snapshot | None:
    """A snapshot of a by-value function or class; None if it captured something that can change in place.

    Take it before packing, so that a change in between is noticed.
    """
    try:
        return _Survey().take(root)
    except Volatile:
        return None
