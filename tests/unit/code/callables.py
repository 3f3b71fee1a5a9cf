"""What users write; runs as a module of theirs and as a script or notebook."""

import functools

factor = 10


def scaled(value):
    return value * factor


def is_even(n):
    return True if n == 0 else is_odd(n - 1)


def is_odd(n):
    return False if n == 0 else is_even(n - 1)


def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


def traced(fn):
    @functools.wraps(fn)
    def wrapper(*args):
        return ("traced", fn(*args))

    return wrapper


@traced
def decorated(a, b=2):
    return a + b


class Adder:
    def __init__(self, by):
        self.by = by

    def add(self, value):
        return value + self.by

    @classmethod
    def make(cls, by):
        return cls(by).by

    @staticmethod
    def nothing():
        return "static"

    def __call__(self, value):
        return self.add(value)


class Counter(Adder):
    @functools.cached_property
    def twice(self):
        return self.by * 2

    def add(self, value):
        return super().add(value) + self.twice


@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


async def waited(value):
    import asyncio

    await asyncio.sleep(0)
    return value + 1


def generates():
    yield 1


def keywords(a, /, b, *, c=3, **more):
    return a, b, c, more


def append(items, value):
    items.append(value)
    return items


class Tally:
    def __init__(self):
        self.seen = []

    def count(self, value):
        return append(self.seen, value)

    __call__ = count
