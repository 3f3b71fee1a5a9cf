"""Any callable goes: where it was defined does not matter, and what it refers to goes with it."""

from __future__ import annotations

import asyncio
import functools
import math
import operator
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S

from farmhand import Farm

FACTOR = 3


def scaled(x: int) -> int:
    return FACTOR * x


class Account:
    def __init__(self, balance: int) -> None:
        self.balance = balance

    def after(self, amount: int) -> int:
        return self.balance + amount

    @classmethod
    def opened(cls, balance: int) -> Account:
        return cls(balance)

    @staticmethod
    def fee(amount: int) -> int:
        return amount // 100

    def __call__(self, amount: int) -> Account:
        return Account(self.balance + amount)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Account) and other.balance == self.balance

    def __hash__(self) -> int:
        return hash(self.balance)


def closure(n: int) -> Callable[[int], int]:
    def inner(x: int) -> int:
        return x + n

    return inner


def local_recursion() -> Callable[[int], int]:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    return factorial


def twice(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> tuple[Any, Any]:
        return fn(*args), fn(*args)

    return wrapper


@twice
def decorated(x: int) -> int:
    return x


async def coroutine(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def generator(n: int) -> Iterator[int]:
    yield from range(n)


@pytest.mark.parametrize(
    ("fn", "args", "result"),
    [
        (lambda x: x + 1, (1,), 2),
        (lambda: FACTOR, (), 3),
        (closure(10), (5,), 15),
        (local_recursion(), (20,), math.factorial(20)),
        (Account(100).after, (5,), 105),
        (Account.opened, (7,), Account(7)),
        (Account.fee, (500,), 5),
        (Account(1), (2,), Account(3)),
        (Account, (9,), Account(9)),
        (functools.partial(pow, 2), (10,), 1024),
        (functools.partial(scaled, x=4), (), 12),
        (functools.partial(lambda a, b: (a, b), 1), (2,), (1, 2)),
        (decorated, (8,), (8, 8)),
        (coroutine, (1,), 2),
        (len, ("four",), 4),
        (sum, ([1, 2, 3],), 6),
        (str.upper, ("a",), "A"),
        ("a-b".split, ("-",), ["a", "b"]),
        (math.hypot, (3, 4), 5.0),
        (operator.itemgetter(1), ([1, 2],), 2),
        (dict, ([("a", 1)],), {"a": 1}),
    ],
    ids=lambda value: getattr(value, "__qualname__", type(value).__name__),
)
def test_a_callable_runs(farm: Farm, fn: Callable[..., Any], args: tuple[Any, ...], result: Any) -> None:
    assert farm.submit(fn, *args).result(PATIENCE_S) == result
    assert list(farm.map(fn, *([arg, arg] for arg in args)))[:1] == ([result] if args else [])


def test_globals_are_as_they_are_at_the_submission(farm: Farm) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("level = 1\ndef read():\n    return level\n", namespace)
    first = farm.submit(namespace["read"])
    namespace["level"] = 2
    second = farm.submit(namespace["read"])
    assert [first.result(PATIENCE_S), second.result(PATIENCE_S)] == [1, 2]


def test_a_closure_over_something_that_changes(farm: Farm) -> None:
    basket: list[int] = []
    futures = []
    for i in range(3):
        basket.append(i)
        futures.append(farm.submit(lambda: list(basket)))
    assert [f.result(PATIENCE_S) for f in futures] == [[0], [0, 1], [0, 1, 2]]


def test_a_generator_cannot_come_back_and_the_error_says_so(farm: Farm) -> None:
    error = farm.submit(generator, 3).exception(PATIENCE_S)
    assert isinstance(error, TypeError)
    assert "generator" in f"{error} {error.__notes__}"


def test_arrays(farm: Farm) -> None:
    matrix = np.arange(12.0).reshape(3, 4)
    assert np.array_equal(farm.submit(np.dot, matrix, matrix.T).result(PATIENCE_S), matrix @ matrix.T)
    sums = farm.map(np.sum, [matrix, matrix + 1])
    assert [float(s) for s in sums] == [66.0, 78.0]
    big = np.random.default_rng(1).random((400, 400))
    assert np.array_equal(farm.submit(lambda m: m * 2, big).result(PATIENCE_S), big * 2)


def test_a_farm_cannot_be_sent_and_the_error_says_what_to_do(farm: Farm) -> None:
    with pytest.raises(TypeError, match="Farm belongs to its process"):
        farm.submit(lambda: farm)
    with pytest.raises(TypeError, match="Farm belongs to its process"):
        farm.submit(print, farm.options(name="x"))
    with pytest.raises(TypeError, match="future belongs to the process"):
        farm.submit(functools.partial(print, farm.submit(len, "")))


def test_a_callable_that_cannot_be_pickled_is_the_callers_error(farm: Farm) -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        farm.submit(lambda: lock.locked() and None)
    assert farm.submit(len, "abc").result(PATIENCE_S) == 3


MAIN = """
import dataclasses, enum, functools, typing
from farmhand import Farm

SCALE = 10
cache = {}

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    def moved(self, by):
        return Point(self.x + by, self.y)

class Pair(typing.NamedTuple):
    a: int
    b: int

class Oops(Exception):
    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code
    def __reduce__(self):
        return Oops, (self.code,)

def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def scaled(p):
    return Point(p.x * SCALE, p.y)

def raise_it():
    raise Oops(7)

@functools.lru_cache
def cached(n):
    return n + 1

if __name__ == "__main__":
    with Farm(max_workers=2) as farm:
        assert farm.submit(fib, 10).result() == 55
        p = farm.submit(scaled, Point(2, 3)).result()
        assert type(p) is Point and p == Point(20, 3), p
        assert farm.submit(p.moved, 5).result() == Point(25, 3)
        assert farm.submit(lambda: Colour.RED).result() is Colour.RED
        pair = farm.submit(Pair, 1, 2).result()
        assert type(pair) is Pair and pair == (1, 2)
        assert farm.submit(cached, 1).result() == 2
        try:
            farm.submit(raise_it).result()
        except Oops as error:
            assert error.code == 7
        SCALE = 100
        assert farm.submit(scaled, Point(1)).result().x == 100
        print("good")
"""


def test_what_a_program_defines_in_main(script: Script) -> None:
    assert script.run(MAIN).stdout == "good\n"
