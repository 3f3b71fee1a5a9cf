"""What calls leave behind in a slot: globals of the user's code, put back, or kept for whoever asks for them.

A *memory* holds what the user's code can change: the namespaces of functions that travel by value, the modules of bundles, and
the containers, classes and objects that can be reached from there. Each is kept with a shallow copy of what it held when its
module was imported or its function unpickled. Before a call all is compared by identity, and what differs is put back in place:
so nobody's reference breaks, nothing is pickled, and an unchanged global costs some 20 ns.

Limits: REACHED_MAX things are looked at in each module or function; what lies further is left as it is. So is what C code keeps
for itself, as in numpy arrays, and objects of classes that are not the user's.
"""

from __future__ import annotations

import itertools
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from itertools import repeat
from operator import is_
from typing import Any, Final

REACHED_MAX: Final = 2000  # things behind one module's or function's globals: 2,000 take 40 us to compare
KEPT_MAX: Final = 32  # states that are kept in one slot; the one not used for longest is forgotten

_MISSING: Final = object()
_Copy = Any


class Item:
    """One thing that can change, and what it held."""

    __slots__ = ("base", "first", "thing")

    def __init__(self, thing: Any) -> None:
        self.thing = thing
        self.first = self.base = self.copy()  # after its import; and after the initializer, where calls begin

    def copy(self) -> _Copy:
        """What it holds now."""
        thing = self.thing
        if type(thing) is types.CellType:
            return _contents(thing)
        return dict(vars(thing)) if isinstance(thing, type) else thing.copy()

    def restore(self, copy: _Copy) -> None:
        """Make it hold that again."""
        thing = self.thing
        kind = type(thing)
        if kind is dict:
            if len(thing) != len(copy) or not all(map(is_, map(thing.get, copy, repeat(_MISSING)), copy.values())):
                _restore_dict(thing, copy)
        elif kind is list or kind is deque:
            if len(thing) != len(copy) or not all(map(is_, thing, copy)):
                thing.clear()
                thing.extend(copy)
        elif kind is types.CellType:
            if _contents(thing) is not copy:
                _fill(thing, copy)
        elif isinstance(thing, type):
            _restore_class(thing, copy)
        elif thing != copy:  # a set or a bytearray
            thing.clear()
            thing.update(copy) if kind is set else thing.extend(copy)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return _MISSING


def _fill(cell: types.CellType, contents: Any) -> None:
    if contents is _MISSING:
        del cell.cell_contents
    else:
        cell.cell_contents = contents


def _restore_dict(thing: dict[Any, Any], copy: dict[Any, Any]) -> None:
    for name in [name for name in thing if name not in copy]:
        if type(thing[name]) is not types.ModuleType:  # a module imported meanwhile is no change of the user's
            del thing[name]
    thing.update(copy)


def _restore_class(thing: type, copy: dict[str, Any]) -> None:
    now = vars(thing)
    if len(now) == len(copy) and all(map(is_, map(now.get, copy, repeat(_MISSING)), copy.values())):
        return
    for name in [name for name in now if name not in copy]:
        delattr(thing, name)
    for name, value in copy.items():
        if vars(thing).get(name, _MISSING) is not value:
            setattr(thing, name, value)


def items_behind(roots: Iterable[dict[str, Any]], fn: Any, is_own: Callable[[str], bool]) -> list[Item]:
    """All that can change behind these namespaces and this callable. `is_own` knows the user's modules by name."""
    found: list[Item] = []
    seen: set[int] = set()
    room = REACHED_MAX
    queue: deque[Any] = deque(roots)
    if fn is not None:
        queue.append(fn)
    while queue:
        thing = queue.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        tracked, inside = _held_by(thing, is_own)
        if tracked or inside:
            room -= 1 + len(inside)
            if room < 0:  # a large table: what is smaller may still find room
                room += 1 + len(inside)
                continue
            found += [Item(each) for each in tracked]
            queue.extend(inside)
    return found


def _held_by(thing: Any, is_own: Callable[[str], bool]) -> tuple[list[Any], Collection[Any]]:
    """What of a thing can change, and what is behind it."""
    kind = type(thing)
    if kind is dict:
        return [thing], thing.values()
    if kind in (list, set, deque):
        return [thing], thing
    if kind is bytearray:
        return ([thing], ()) if len(thing) <= REACHED_MAX else ([], ())
    if kind in (tuple, frozenset):
        return [], thing
    if kind is types.FunctionType and is_own(thing.__module__ or ""):
        cells = list(thing.__closure__ or ())
        inside = [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values(), *map(_contents, cells)]
        return [*cells, *([thing.__dict__] if thing.__dict__ else [])], inside
    if isinstance(thing, type):
        return ([thing], vars(thing).values()) if is_own(thing.__module__) else ([], ())
    state = getattr(thing, "__dict__", None)
    if type(state) is dict and is_own(kind.__module__):
        return [state], state.values()
    return [], ()


class Memory:
    """What the user's modules hold in this process: as imported, as calls begin, and as it is kept for somebody."""

    def __init__(self) -> None:
        self._items: dict[str, list[Item]] = {}  # by module
        self._kept: OrderedDict[str, list[tuple[Item, _Copy]]] = OrderedDict()
        self._live = ""  # whose state the modules hold; nobody's when empty

    def add(self, module: str, items: list[Item]) -> None:
        """This module has just been imported."""
        self._items[module] = items

    def drop(self, tops: Container[str]) -> None:
        """The modules below these names are not loaded any more."""
        for module in [module for module in self._items if module.partition(".")[0] in tops]:
            del self._items[module]

    def begin(self, start: str, leave: str) -> None:
        """Before a call that starts from the state kept as `start`, and whose own is kept as `leave`.

        Either may be empty: a call that starts from what imports and the initializer left, one whose changes nobody sees.
        """
        if not self._items:
            return
        if self._live and self._live not in (start, leave):
            self._keep()
        if not start:
            self._kept.pop(leave, None)
            self._restore()
        elif self._live != start:
            self._restore()
            for item, copy in self._kept.pop(start, ()):
                item.restore(copy)
        self._live = leave

    def forget_initializer(self) -> None:
        """All is as it was imported, and calls begin from there."""
        if self._live:
            self._keep()
        self._live = ""
        for item in self._all():
            item.restore(item.first)
            item.base = item.first

    def after_initializer(self) -> None:
        """Calls begin from what is now."""
        for item in self._all():
            item.base = item.copy()

    def _all(self) -> Iterator[Item]:
        return itertools.chain.from_iterable(self._items.values())

    def _restore(self) -> None:
        for item in self._all():
            item.restore(item.base)

    def _keep(self) -> None:
        self._kept[self._live] = [(item, item.copy()) for item in self._all()]
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
