"""What can change is found, put back in place, and bounded."""

import types
from collections import deque
from typing import ClassVar

import pytest

from farmhand.code.state import KEPT_MAX, REACHED_MAX, Item, Memory, items_behind


def restore(items: list[Item]) -> None:
    for item in items:
        item.restore(item.base)


def tracked(namespace: dict, fn: object = None) -> list[Item]:
    return items_behind([namespace], fn, lambda module: module == __name__)


class Own:
    shared: ClassVar[list] = []
    number = 0

    def __init__(self) -> None:
        self.inner = {"deep": [1]}


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1, [2]], lambda v: v[1].append(3)),
        ({"a": {"b": {1}}}, lambda v: v["a"]["b"].add(2)),
        (deque([1]), lambda v: v.append(2)),
        (bytearray(b"ab"), lambda v: v.extend(b"c")),
        ((1, [2]), lambda v: v[1].clear()),
        ({1, 2}, lambda v: v.discard(1)),
    ],
)
def test_containers_in_place(value: object, change: object) -> None:
    namespace = {"value": value}
    before = repr(value)
    items = tracked(namespace)
    change(value)  # type: ignore[operator]
    assert repr(value) != before
    restore(items)
    assert repr(value) == before
    assert namespace["value"] is value


def test_names_classes_objects_defaults_and_closures() -> None:
    def fn(given: list = []) -> None:  # noqa: B006
        nonlocal count
        count += 1
        given.append(count)

    count = 0
    own = Own()
    namespace = {"own": own, "Own": Own, "name": 1}
    items = tracked(namespace, fn)
    fn()
    namespace.update(name=2, new=3)
    del namespace["Own"]
    own.inner["deep"].append(2)
    own.extra = 1  # type: ignore[attr-defined]
    Own.number = 5
    Own.shared.append(1)
    Own.added = 1  # type: ignore[attr-defined]
    restore(items)
    assert namespace == {"own": own, "Own": Own, "name": 1}
    assert vars(own) == {"inner": {"deep": [1]}}
    assert (Own.number, Own.shared, hasattr(Own, "added"), count, fn.__defaults__) == (0, [], False, 0, ([],))


def test_modules_that_were_imported_meanwhile_stay() -> None:
    namespace = {"a": 1}
    items = tracked(namespace)
    namespace.update(b=types.ModuleType("b"), c=2)  # type: ignore[dict-item]
    restore(items)
    assert set(namespace) == {"a", "b"}


def test_what_is_not_the_users_is_left_alone() -> None:
    class Theirs:
        pass

    Theirs.__module__ = "elsewhere"
    theirs = Theirs()
    items = tracked({"theirs": theirs, "Theirs": Theirs})
    theirs.n = Theirs.n = 1  # type: ignore[attr-defined]
    restore(items)
    assert theirs.n == Theirs.n == 1  # type: ignore[attr-defined]


def test_a_large_table_is_left_and_what_is_small_is_not() -> None:
    table, small = dict.fromkeys(range(REACHED_MAX + 1), 0), [1]
    items = tracked({"table": table, "blob": bytearray(REACHED_MAX + 1), "small": small})
    assert len(items) == 2
    table[0] = 1
    small.append(2)
    restore(items)
    assert (table[0], small) == (1, [1])


def test_states_are_kept_by_name_and_not_without_end() -> None:
    module = {"n": 0}
    memory = Memory()
    memory.add("m", tracked(module))

    def call(start: str, leave: str) -> int:
        memory.begin(start, leave)
        module["n"] += 1
        return module["n"]

    assert [call("a", "a"), call("b", "b"), call("", ""), call("a", "a"), call("b", "b"), call("", "")] == [
        1,
        1,
        1,
        2,
        2,
        1,
    ]
    assert [call("a", ""), call("a", "a")] == [3, 1], "what was left is forgotten"
    assert [call("", "a"), call("a", "a")] == [1, 2]
    for number in range(KEPT_MAX + 1):
        call(f"k{number}", f"k{number}")
    assert [call("a", "a"), call(f"k{KEPT_MAX}", "")] == [1, 2]
    memory.drop({"m"})
    assert call("a", "a") > 2, "nobody looks after it any more"
