"""The pickler of code and values: C speed for plain data, cloudpickle's ways for what cannot be imported elsewhere.

What it adds to cloudpickle: the user's own modules go by reference and are noted, so that their source can be sent;
classes by value go sealed (see `classes`); functions of one namespace say so, so that what an initializer assigned in
the slot reaches the functions that come later (see `namespaces`); views of memory are not copied.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import types
from collections.abc import Callable
from typing import Any, Final

from cloudpickle import cloudpickle as cp

from farmhand.code import inputs as code_inputs
from farmhand.code.classes import claim, reduce_class
from farmhand.code.namespaces import Namespace, make_namespace
from farmhand.code.origin import Origin, code_imports, origin_of, reference_module
from farmhand.code.snapshot import WRAPPER

PROTOCOL: Final = 5
MODULE_TYPE: Final = types.ModuleType

# One plain dict: cloudpickle's ChainMap costs a Python call for each object that is not built in.
_reducers: dict[Any, Any] = {}
_registered: dict[Any, Any] = {}


def _refresh_reducers() -> None:
    """Takes over what libraries registered with copyreg since the last time."""
    global _registered
    _registered = dict(copyreg.dispatch_table)
    _reducers.clear()
    _reducers.update(_registered)
    _reducers.update(cp.Pickler._dispatch_table)
    _reducers[memoryview] = _reduce_memoryview
    _reducers[Namespace] = _reduce_namespace
    _reducers[functools.cached_property] = _reduce_cached_property


class CodePickler(cp.Pickler):  # type: ignore[misc,unused-ignore]
    """Pickles one object. `modules` are the user's modules that the bytes refer to by name.

    With `sealed`, classes by value travel with their definition sealed, as in values; else in the open, as in code.
    """

    dispatch_table = _reducers

    def __init__(self, file: Any, *, sealed: bool = True, inputs: list[Any] | None = None,
                 buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> None:  # fmt: skip
        """`inputs` takes what is noted for each input that is met; without it an input cannot be pickled."""
        if _registered != copyreg.dispatch_table:
            _refresh_reducers()
        # Not cloudpickle's own: it adds nothing but time.
        pickle.Pickler.__init__(self, file, PROTOCOL, buffer_callback=buffer_callback)
        self.globals_ref: dict[int, Any] = {}
        self.modules: set[str] = set()
        self._sealed = sealed
        self._inputs = inputs
        self._numbers: dict[int, int] = {}
        self._namespaces: dict[int, Namespace] = {}

    # typing_extensions' override would be a dependency for one decorator; C calls this method by its name.
    def reducer_override(self, obj: Any) -> Any:
        """What C's pickler asks for each object that is not a plain built-in one."""
        kind = type(obj)
        if kind is types.FunctionType:
            return self._reduce_function(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind is WRAPPER:
            return self._reduce_wrapper(obj)
        if issubclass(kind, MODULE_TYPE):
            return self._reduce_module(obj)
        if kind in code_inputs.kinds and self._inputs is not None:
            return self._reduce_input(code_inputs.kinds[kind](obj))
        # An object may reduce to a name in its class's module, and then nothing else tells that the module is needed.
        module = kind.__module__
        if module not in self.modules and origin_of(module) is Origin.USER:
            self.modules.add(module)
        return NotImplemented

    def _reduce_input(self, noted: Any) -> Any:
        assert self._inputs is not None
        number = self._numbers.setdefault(id(noted), len(self._inputs))
        if number == len(self._inputs):
            self._inputs.append(noted)  # which keeps it alive, and so its id its own
        return code_inputs.take_input, (number,)

    def _by_reference(self, obj: Any) -> bool:
        module = reference_module(obj)
        if module is None:
            return False
        if origin_of(module) is Origin.USER:
            self.modules.add(module)
        return True

    def _reduce_function(self, fn: types.FunctionType) -> Any:
        if self._by_reference(fn):
            return NotImplemented
        for name in code_imports(fn.__code__):
            top = name or str(fn.__globals__.get("__package__") or "").partition(".")[0]
            if top:
                self.modules.add(top)  # the bundle store knows which of them are the user's
        return self._dynamic_function_reduce(fn)

    def _function_getnewargs(self, func: types.FunctionType) -> tuple[Any, ...]:
        code, base, name, defaults, closure = super()._function_getnewargs(func)
        key = id(func.__globals__)
        namespace = self._namespaces.get(key)
        if namespace is None:
            namespace = self._namespaces[key] = Namespace(str(func.__globals__.get("__name__", "")), base)
        return code, namespace, name, defaults, closure

    def _reduce_class(self, cls: type) -> Any:
        reduced = None if cls in cp._BUILTIN_TYPE_NAMES or cls is type(None) else self._by_reference(cls)
        if reduced is None:
            return cp._class_reduce(cls)
        if reduced:
            return NotImplemented if cls.__module__ != "builtins" else cp._class_reduce(cls)
        if self._sealed:
            return reduce_class(cls, self._define)
        claim(cls)
        return cp._dynamic_class_reduce(cls)

    def _define(self, cls: type) -> bytes:
        # In the open from here on: two classes that mention each other would seal each other for ever.
        blob, modules = pickle_code(cls)
        self.modules |= modules
        return blob

    def _reduce_wrapper(self, wrapper: Any) -> Any:
        if self._by_reference(wrapper):
            return NotImplemented
        return _make_wrapper, (wrapper.__wrapped__, wrapper.cache_parameters())

    def _reduce_module(self, module: types.ModuleType) -> Any:
        origin = origin_of(module.__name__)
        if origin is Origin.USER:
            self.modules.add(module.__name__)
        elif origin is Origin.DYNAMIC:
            state = {k: v for k, v in vars(module).items() if k != "__builtins__"}
            return cp.dynamic_subimport, (module.__name__, state)
        return cp._module_reduce(module)


def pickle_code(obj: Any) -> tuple[bytes, set[str]]:
    """A callable or class as bytes, and the user's modules that it needs."""
    with io.BytesIO() as file:
        pickler = CodePickler(file, sealed=False)
        pickler.dump(obj)
        return file.getvalue(), pickler.modules


def pickle_value(obj: Any, inputs: list[Any] | None = None) -> tuple[bytes, set[str]]:
    """A value as bytes, and the user's modules that it needs. `inputs` as in `CodePickler`."""
    with io.BytesIO() as file:
        pickler = CodePickler(file, inputs=inputs)
        pickler.dump(obj)
        return file.getvalue(), pickler.modules


def _reduce_memoryview(view: memoryview) -> tuple[Any, ...]:
    """A view arrives as bytes. `bytes(bytes)` is no copy, so a large one is in memory once on either side."""
    if view.c_contiguous:
        return bytes, (pickle.PickleBuffer(view.toreadonly()),)
    return bytes, (view.tobytes(),)


def _reduce_namespace(namespace: Namespace) -> tuple[Any, ...]:
    return make_namespace, (namespace.name, namespace.base)


def _make_wrapper(fn: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(fn)


def _reduce_cached_property(prop: functools.cached_property[Any]) -> tuple[Any, ...]:
    return _make_cached_property, (prop.func, prop.attrname)


def _make_cached_property(fn: Any, name: str | None) -> functools.cached_property[Any]:
    made = functools.cached_property(fn)
    made.attrname = name  # a class that is built anew does not tell its members their names
    return made
