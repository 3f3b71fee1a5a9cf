"""Tasks that submit. Each process that runs one imports this, so it imports little."""

from __future__ import annotations

import operator

from tests.integration.executor.meeting import Place, arrive
from tests.integration.executor.tally import Tally

from farmhand import Farm

MB = 1024 * 1024


def fib(n: int) -> int:
    if n < 2:
        return n
    farm = Farm.current()
    one, other = farm.submit(fib, n - 1), farm.submit(fib, n - 2)
    return one.result() + other.result()


def mapped(count: int) -> int:
    return sum(Farm.current().map(operator.add, range(count), range(count)))


def produce(size: int) -> bytes:
    return b"\x01" * size


def pass_on(data: bytes) -> int:
    farm = Farm.current()
    back = farm.submit(lambda data: data + b"\x02", data).result()
    return len(back) + len(farm.submit(produce, 3 * MB).result())


def fail(text: str) -> None:
    raise LookupError(text)


def catch() -> str:
    try:
        Farm.current().submit(fail, "below").result()
    except LookupError as error:
        return str(error)
    return "nothing"


def meet_below(place: Place, tally: Tally) -> int:
    runs = tally.add()
    return 10 * runs + Farm.current().submit(arrive, place, 1).result()


def leave_one(place: Place) -> None:
    left = Farm.current().submit(arrive, place, "left")
    Farm.current().submit(operator.add, 1, 1).result()
    del left


def give_up_first(tally: Tally) -> int:
    value: int = Farm.current().submit(operator.add, 3, 4).result()
    if tally.add() == 1:
        raise OSError("not yet")
    return value


def number_below() -> str:
    return Farm.current().session
