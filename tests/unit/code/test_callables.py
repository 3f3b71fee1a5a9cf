"""Any callable, run by another process that has none of its modules."""

import dataclasses
import functools
import gc
import math
import operator
import textwrap
import types
import weakref
from pathlib import Path

import pytest

from farmhand.code.pack import Packer

DEFINITIONS = Path(__file__).with_name("callables.py").read_text()


@pytest.fixture
def main():
    """The definitions as in a script or notebook: functions of `__main__`, which nobody else can import."""
    module = types.ModuleType("__main__")
    exec(DEFINITIONS, vars(module))
    return module


@pytest.fixture(params=["module", "main"])
def things(request, project, main):
    if request.param == "main":
        return main
    project.write("my_callables.py", DEFINITIONS)
    return project.load("my_callables")


def test_what_a_function_may_be(slot, things):
    offset = 5
    adder = things.Adder(3)
    cases = [
        (lambda x: x + 1, (1,), 2),
        (lambda x: x + offset, (1,), 6),
        (things.scaled, (2,), 20),
        (things.factorial, (20,), math.factorial(20)),
        (things.is_even, (10,), True),
        (things.is_odd, (10,), False),
        (things.decorated, (1,), ("traced", 3)),
        (adder.add, (1,), 4),
        (things.Adder.make, (7,), 7),
        (things.Adder.nothing, (), "static"),
        (adder, (1,), 4),
        (things.Counter(2), (1,), 7),
        (functools.partial(things.scaled, 4), (), 40),
        (functools.partial(adder.add, 4), (), 7),
        (things.fibonacci, (50,), 12586269025),
        (things.waited, (1,), 2),
        (len, ([1, 2],), 2),
        (math.sqrt, (9.0,), 3.0),
        (operator.itemgetter(1), ([5, 6],), 6),
        ("a-b".split, ("-",), ["a", "b"]),
        (int, ("12",), 12),
        (functools.reduce, (operator.add, [1, 2, 3]), 6),
        (sorted, ([-3, 1, 2],), [-3, 1, 2]),
    ]
    for fn, args, expected in cases:
        assert slot.run(fn, *args) == expected, fn


def test_keyword_arguments(slot, things):
    assert slot.run(things.keywords, 1, b=2, c=4, d=[5]) == (1, 2, 4, {"d": [5]})
    assert slot.run(sorted, [1, 3, 2], key=lambda x: -x) == [3, 2, 1]


def test_functions_as_arguments_and_results(slot, things):
    made = slot.run(lambda f: lambda x: f(x) + 1, things.scaled)
    assert made(1) == 11


def test_globals_are_those_of_the_moment_of_packing(slot, main, monkeypatch):
    first = slot.packer.code_for(main.scaled)
    assert slot.packer.code_for(main.scaled) is first
    monkeypatch.setattr(main, "factor", 100)
    second = slot.packer.code_for(main.scaled)
    assert slot.run_code(second, 1) == 100
    assert slot.run_code(first, 1) == 10
    assert slot.run_code(second, 1) == 100


def test_closure_cells_and_mutable_state_are_packed_anew(slot):
    count = 1
    seen = [1]

    def read():
        return count, list(seen), read.note if hasattr(read, "note") else None

    assert slot.run(read) == (1, [1], None)
    count = 2
    assert slot.run(read) == (2, [1], None)
    seen.append(2)
    assert slot.run(read) == (2, [1, 2], None)
    read.note = "new"
    assert slot.run(read) == (2, [1, 2], "new")


def test_what_a_captured_function_reaches_is_watched_too(slot, main, monkeypatch):
    scaled = main.scaled

    def through(x):
        return scaled(x)

    assert slot.run(through, 1) == 10
    assert slot.packer.code_for(through) is slot.packer.code_for(through)
    monkeypatch.setattr(main, "factor", 3)
    assert slot.run(through, 1) == 3
    monkeypatch.setattr(main.scaled, "__code__", (lambda value: -value).__code__)
    assert slot.run(through, 1) == -1


def test_defaults_and_a_patched_method_are_noticed(slot, main, monkeypatch):
    def f(x=1, *, y=2):
        return x, y

    assert slot.run(f) == (1, 2)
    f.__defaults__ = (5,)
    f.__kwdefaults__["y"] = 6
    assert slot.run(f) == (5, 6)

    adder = main.Adder

    def uses_class(value):
        return adder(1).add(value)

    assert slot.run(uses_class, 1) == 2
    assert slot.packer.code_for(uses_class) is slot.packer.code_for(uses_class)
    monkeypatch.setattr(main.Adder, "add", lambda self, value: "patched")
    assert slot.run(uses_class, 1) == "patched"
    assert slot.run(lambda adder: adder.add(1), main.Adder(1)) == "patched"


def test_what_stays_the_same_is_packed_once_and_keeps_nothing_alive(main):
    def made():
        limit = 3

        @dataclasses.dataclass
        class Row:
            name: str = ""

        def inner(n):
            return inner(n - 1) if n else (limit, Row(), math.pi)

        return inner, Row, functools.partial(inner, 3, n=limit)

    packer = Packer()
    closures = made()
    lasting = (main.fibonacci, main.decorated, main.is_even, main.Counter, math.sqrt, textwrap.dedent)
    for fn in (*closures, *lasting):
        assert packer.code_for(fn) is packer.code_for(fn), fn
    held = [weakref.ref(each) for each in closures]
    del closures, fn
    gc.collect()
    assert [ref() for ref in held] == [None] * 3


def test_a_partial_is_watched_too(slot, main, monkeypatch):
    bound = functools.partial(main.keywords, 1, c=4)
    assert slot.run(bound, 2) == (1, 2, 4, {})
    bound.keywords["c"] = 5
    assert slot.run(bound, 2) == (1, 2, 5, {})
    scaled = functools.partial(main.scaled, 4)
    assert slot.run(scaled) == 40
    monkeypatch.setattr(main, "factor", 2)
    assert slot.run(scaled) == 8


def test_what_a_call_changes_in_its_callable_is_not_seen_by_the_next(slot, things):
    tally = things.Tally()
    for fn in (tally, tally.count, functools.partial(things.append, [])):
        code = slot.packer.code_for(fn)
        assert [slot.run_code(code, 1) for _ in range(3)] == [[1]] * 3


def test_a_name_that_was_missing_and_is_defined_later(slot, main):
    exec("def later():\n    return defined\n", vars(main))
    with pytest.raises(NameError):
        slot.run(main.later)
    main.defined = 5
    assert slot.run(main.later) == 5


def test_a_generator_as_result_is_refused_with_its_type_named(slot, main):
    with pytest.raises(TypeError, match="generator") as caught:
        slot.run(main.generates)
    assert any("result, of type generator" in note for note in caught.value.__notes__)


def test_an_argument_that_cannot_be_pickled_is_named(slot, main):
    with pytest.raises(TypeError, match="generator") as caught:
        slot.run(print, 1, [2], main.generates())
    assert any("Argument 2 (counting from 0), of type generator" in note for note in caught.value.__notes__)
    with pytest.raises(TypeError) as caught:
        slot.run(print, key=main.generates())
    assert any("Argument 'key'" in note for note in caught.value.__notes__)


NOTEBOOK = textwrap.dedent(
    """
    import functools, math
    scale = 2
    def area(r):
        return scale * math.pi * r * r
    def lazy(x):
        import json
        return json.dumps(x)
    first = slot.run(area, 1)
    scale = 3
    print(first == 2 * math.pi, slot.run(area, 1) == 3 * math.pi, slot.run(lazy, [1]))
    print([slot.run(lambda x=x: x * scale) for x in range(3)])
    """
)


@pytest.mark.parametrize("file", [True, False])
def test_functions_of_a_script_and_of_a_notebook(run_client, file):
    assert run_client(NOTEBOOK, file=file) == "True True [1]\n[0, 3, 6]\n"


INITIALIZER = textwrap.dedent(
    """
    connection = None
    cache = {}
    class State: pass
    state = State()
    untouched = 1
    def connect(name):
        global connection
        connection = name.upper()
        cache["filled"] = True
        state.ready = True
    def work(x):
        return connection, cache, state.ready, untouched, x
    slot.initialize(connect, "db")
    print(slot.run(work, 1))
    untouched = 2
    print(slot.run(work, 2), (lambda f: slot.run(lambda g: g(3), f))(work))
    """
)


def test_what_an_initializer_leaves_is_seen_by_later_functions(run_client):
    assert run_client(INITIALIZER).splitlines() == [
        "('DB', {'filled': True}, True, 1, 1)",
        "('DB', {'filled': True}, True, 2, 2) ('DB', {'filled': True}, True, 2, 3)",
    ]


IDENTITY = textwrap.dedent(
    """
    import dataclasses, enum
    @dataclasses.dataclass
    class Point:
        x: int
        y: int = 0
        def moved(self, by):
            return Point(self.x + by, self.y)
    class Colour(enum.Enum):
        RED = 1
        BLUE = 2
    class Problem(Exception):
        def __init__(self, code, extra):
            super().__init__(code, extra)
            self.code = code
    def move(p, by):
        assert isinstance(p, Point), type(p)
        return p.moved(by)
    def fail():
        raise Problem(7, Colour.RED)
    original = Point.moved, dict(vars(Point))
    for turn in range(3):
        back = slot.run(move, Point(1, 2), turn)
        assert type(back) is Point and isinstance(back, Point), type(back)
        assert back == Point(1 + turn, 2)
    made = slot.run(lambda: [Point(5), Colour.BLUE])
    assert type(made[0]) is Point and made[1] is Colour.BLUE
    assert slot.run(lambda c: c is Colour.RED, Colour.RED)
    assert slot.run(lambda: Point) is Point
    assert Point.moved is original[0] and vars(Point).items() >= original[1].items()
    try:
        slot.run(fail)
    except Problem as problem:
        assert problem.args == (7, Colour.RED) and problem.code == 7
    def local():
        class Inner:
            value = 3
        return Inner()
    one, two = slot.run(local), slot.run(local)
    assert one.value == 3 and type(one).__name__ == "Inner"
    # A class that is defined anew is another class.
    old = Point(1)
    @dataclasses.dataclass
    class Point:
        x: str
        def moved(self, by):
            return "new"
    assert slot.run(lambda p: p.moved(1), Point("a")) == "new"
    assert slot.run(lambda p: p.x, old) == 1 and type(slot.run(lambda p: p, old)) is type(old)
    print("fine")
    """
)


def test_instances_of_classes_of_main_come_back_as_what_they_were(run_client):
    assert run_client(IDENTITY) == "fine\n"
