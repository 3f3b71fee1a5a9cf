"""Farmhand: the computers you already have, as one compute farm.

    with Farm() as farm:
        for result in farm.map(function, items): ...

The names below are loaded when they are first used, so that `import farmhand` costs next to nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farmhand import errors
    from farmhand.client.aio import AsyncFarm
    from farmhand.client.environments import Environment
    from farmhand.client.farm import Farm
    from farmhand.client.futures import FarmFuture
    from farmhand.client.options import SessionOptions
    from farmhand.client.session import Session
    from farmhand.model.retry import Retry
    from farmhand.model.version import VERSION
    from farmhand.neighbours.pool import Pool
    from farmhand.node.inprocess import join

    __version__ = VERSION

__all__ = [
    "AsyncFarm", "Environment", "Farm", "FarmFuture", "Pool", "Retry", "Session", "SessionOptions", "__version__", "errors",
    "join",
]  # fmt: skip

_WHERE = {
    "AsyncFarm": ("farmhand.client.aio", "AsyncFarm"),
    "Environment": ("farmhand.client.environments", "Environment"),
    "Farm": ("farmhand.client.farm", "Farm"),
    "FarmFuture": ("farmhand.client.futures", "FarmFuture"),
    "Pool": ("farmhand.neighbours.pool", "Pool"),
    "Retry": ("farmhand.model.retry", "Retry"),
    "Session": ("farmhand.client.session", "Session"),
    "SessionOptions": ("farmhand.client.options", "SessionOptions"),
    "__version__": ("farmhand.model.version", "VERSION"),
    "errors": ("farmhand.errors", ""),
    "join": ("farmhand.node.inprocess", "join"),
}


def _load_msgspec() -> None:
    """Load msgspec without typing_extensions, which it asks for first and which takes 50 ms in each of our processes.

    It falls back to the same names of `typing`, and Python 3.11 has them all.
    """
    if "msgspec" in sys.modules or "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules["typing_extensions"]


_load_msgspec()


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _WHERE:
        raise AttributeError(f"module 'farmhand' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value: Any = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value
