"""Classes of `__main__` and other places that cannot be imported: how they come back as the class they were.

cloudpickle gives each such class an id, and one process makes one class of an id. But it sends the whole definition
with each value and writes it over the class it finds, in the client over the user's own class. Here a value carries
the id, a digest and the definition as sealed bytes. A process that has the class under that id, because it defined it
or because it got this very definition before, does not open them.
"""

from __future__ import annotations

import pickle
import weakref
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from cloudpickle import cloudpickle as cp

from farmhand.code.hashing import content_hash
from farmhand.code.snapshot import Snapshot, take_snapshot


class _Definition(NamedTuple):
    digest: str
    sealed: bytes
    snapshot: Snapshot | None  # None: the class came from elsewhere, where its definition is decided


_own: weakref.WeakSet[type] = weakref.WeakSet()
_definitions: weakref.WeakKeyDictionary[type, _Definition] = weakref.WeakKeyDictionary()


def claim(cls: type) -> str:
    """The class's id. A class that has none yet was defined in this process."""
    if cls not in cp._DYNAMIC_CLASS_TRACKER_BY_CLASS:
        _own.add(cls)
    return str(cp._get_or_create_tracker_id(cls))


def reduce_class(cls: type, define: Callable[[type], bytes]) -> tuple[Any, ...]:
    """What pickle stores for a class that travels by value. `define` pickles the definition itself."""
    identity = claim(cls)
    known = _definitions.get(cls)
    if known is None or (known.snapshot is not None and not known.snapshot.holds()):
        known = _define(cls, define)
    return rebuild_class, (identity, known.digest, known.sealed)


def _define(cls: type, define: Callable[[type], bytes]) -> _Definition:
    snapshot = take_snapshot(cls) if cls in _own else None
    sealed = zlib.compress(define(cls), 6)
    definition = _Definition(content_hash(sealed)[:16], sealed, snapshot)
    if snapshot is not None or cls not in _own:
        _definitions[cls] = definition
    return definition


def rebuild_class(identity: str, digest: str, sealed: bytes) -> type:
    """The class of this id: the one that is here, or a new one made from its definition."""
    here: type | None = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(identity)
    if here is not None:
        if here in _own:
            return here
        known = _definitions.get(here)
        if known is not None and known.digest == digest:
            return here
    made: type = pickle.loads(zlib.decompress(sealed))
    _definitions[made] = _Definition(digest, sealed, None)
    return made
