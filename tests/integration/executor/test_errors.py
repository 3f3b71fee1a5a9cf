"""What a task raises arrives as it was, or in words when it cannot; and the slot is usable afterwards."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.integration.executor.meeting import PATIENCE_S, Meeting, Visitor, knock

from farmhand import Farm, errors


class Custom(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(code, hint)
        self.code, self.hint = code, hint

    def __reduce__(self) -> Any:
        return _custom, (self.code, self.hint)


def _custom(code: int, hint: str) -> Custom:
    return Custom(code, hint=hint)


class Bare(Exception):
    """Its constructor wants more than `args` has: the way most exceptions of real libraries break."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")


class BrokenReduce(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no pickling of me")


class Slippery(Exception):
    def __reduce__(self) -> Any:
        return int, ("7",)


class LoudEnd:
    def __del__(self) -> None:
        raise RuntimeError("raised in __del__")


class DiesInPickle:
    def __init__(self, how: BaseException) -> None:
        self.how = how

    def __getstate__(self) -> Any:
        raise self.how


def _explode(how: BaseException) -> Any:
    raise how


class DiesInUnpickle:
    def __init__(self, how: BaseException) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return _explode, (self.how,)


def raise_(error: BaseException) -> None:
    raise error


def chained() -> None:
    try:
        {}["key"]
    except KeyError as error:
        raise ValueError("outer") from error


def deeper(n: int) -> int:
    return deeper(n + 1) + 1


@pytest.fixture(autouse=True)
def slots_stay(farm: Farm, pids_of: Callable[[], set[int]]) -> Any:
    """In these tests no slot dies, and both work afterwards."""
    before = pids_of()
    yield
    assert farm.submit(os.getpid).result(PATIENCE_S) in before
    assert pids_of() == before


def test_the_original_with_where_it_happened(farm: Farm) -> None:
    error = farm.submit(raise_, Custom(7, hint="look left")).exception(PATIENCE_S)
    assert type(error) is Custom
    assert (error.code, error.hint) == (7, "look left")
    text = "\n".join(error.__notes__)
    node = farm.status()["nodes"][0]["name"]
    assert f"node {node}, slot " in text
    assert "attempt 1" in text
    assert "raise_" in text
    assert "in raise_" in text, "the remote traceback"
    assert "slot.py" not in text, "without our own frames"


def test_a_traceback_shows_both_sides(farm: Farm) -> None:
    import traceback

    with pytest.raises(ZeroDivisionError) as caught:
        farm.submit(lambda: 1 // 0).result(PATIENCE_S)
    text = "".join(traceback.format_exception(caught.value))
    assert "test_a_traceback_shows_both_sides" in text
    assert "1 // 0" in text


def test_causes_travel_along(farm: Farm) -> None:
    error = farm.submit(chained).exception(PATIENCE_S)
    assert isinstance(error, ValueError)
    assert "KeyError: 'key'" in "\n".join(error.__notes__)


@pytest.mark.parametrize(
    ("sent", "said"),
    [(Bare(1, 2), "1 and 2"), (BrokenReduce("text of it"), "text of it"), (Slippery("odd"), "odd")],
    ids=["constructor", "reduce", "no exception"],
)
def test_what_cannot_be_rebuilt_comes_in_words(farm: Farm, sent: Exception, said: str) -> None:
    kind = type(sent)
    make = {Bare: lambda: Bare(1, 2)}.get(kind, lambda: kind(said))
    error = farm.submit(lambda: raise_(make())).exception(PATIENCE_S)
    assert isinstance(error, errors.TaskFailed), repr(error)
    assert kind.__name__ in str(error)
    assert said in str(error)


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, StopIteration, RecursionError]
)
def test_unusual_exceptions_are_only_exceptions(farm: Farm, kind: type[BaseException]) -> None:
    error = farm.submit(raise_, kind(3)).exception(PATIENCE_S)
    assert type(error) is kind
    assert error.args == (3,)


def test_sys_exit_ends_the_task_and_not_the_slot(farm: Farm) -> None:
    error = farm.submit(sys.exit, 3).exception(PATIENCE_S)
    assert isinstance(error, SystemExit)
    assert error.code == 3


def test_deep_recursion(farm: Farm) -> None:
    assert isinstance(farm.submit(deeper, 0).exception(PATIENCE_S), RecursionError)


def test_real_lack_of_memory(farm: Farm) -> None:
    assert isinstance(farm.submit(lambda: bytearray(1 << 62)).exception(PATIENCE_S), MemoryError)


def test_unpicklable_arguments_fail_in_the_caller(farm: Farm) -> None:
    for args, named in (((1, threading.Lock()), "Argument 1"), (((x for x in ()),), "Argument 0")):
        with pytest.raises(TypeError) as caught:
            farm.submit(print, *args)
        assert named in "\n".join(caught.value.__notes__)
    with pytest.raises(TypeError) as caught:
        farm.submit(print, end=threading.Lock())
    assert "'end'" in "\n".join(caught.value.__notes__)
    with pytest.raises(RuntimeError, match="in getstate"):
        farm.submit(print, DiesInPickle(RuntimeError("in getstate")))


def test_arguments_that_cannot_be_unpickled_there(farm: Farm) -> None:
    for how, named in ((ValueError("at unpickling"), "ValueError: at unpickling"), (SystemExit(4), "SystemExit: 4")):
        error = farm.submit(print, DiesInUnpickle(how)).exception(PATIENCE_S)
        assert isinstance(error, errors.ArgumentsUndecodable)
        assert named in str(error)


def test_results_that_cannot_be_pickled(farm: Farm) -> None:
    error = farm.submit(threading.Lock).exception(PATIENCE_S)
    assert isinstance(error, TypeError)
    assert "result, of type _thread.lock" in "\n".join(error.__notes__)
    error = farm.submit(DiesInPickle, ValueError("at pickling")).exception(PATIENCE_S)
    assert isinstance(error, ValueError)
    error = farm.submit(DiesInPickle, SystemExit(5)).exception(PATIENCE_S)
    assert isinstance(error, SystemExit)
    assert isinstance(farm.submit(lambda: [threading.Lock()] * 2).exception(PATIENCE_S), TypeError)


def test_results_that_cannot_be_unpickled_here(farm: Farm) -> None:
    error = farm.submit(DiesInUnpickle, ValueError("here")).exception(PATIENCE_S)
    assert isinstance(error, errors.ResultUndecodable)
    assert isinstance(error.__cause__, ValueError)
    for how in (SystemExit(1), KeyboardInterrupt()):
        assert isinstance(farm.submit(DiesInUnpickle, how).exception(PATIENCE_S), errors.ResultUndecodable)


def test_a_mixed_batch_keeps_each_outcome_apart(farm: Farm) -> None:
    def one(i: int) -> Any:
        if i % 7 == 3:
            raise ValueError(i)
        return threading.Lock() if i % 11 == 5 else i

    list(farm.map(one, [0] * 200))  # so that what follows travels in batches
    futures = [farm.submit(one, i) for i in range(400)]
    for i, future in enumerate(futures):
        error = future.exception(PATIENCE_S)
        if i % 7 == 3:
            assert isinstance(error, ValueError)
            assert error.args == (i,)
        elif i % 11 == 5:
            assert isinstance(error, TypeError)
        else:
            assert future.result() == i


def test_a_result_whose_end_is_loud(farm: Farm) -> None:
    assert farm.submit(lambda: isinstance(LoudEnd(), object)).result(PATIENCE_S) is True
    future = farm.submit(lambda: (LoudEnd(), 5)[1])
    assert future.result(PATIENCE_S) == 5
    assert farm.submit(gc.collect).result(PATIENCE_S) >= 0


def test_a_task_that_closes_the_standard_streams(farm: Farm) -> None:
    def close() -> None:
        sys.stdout.close()
        sys.stderr.close()

    def replace() -> None:
        sys.stdout = sys.stderr = None  # type: ignore[assignment]

    def print_all() -> str:
        print("out")
        print("err", file=sys.stderr)
        return "printed"

    for spoil in (close, replace):
        for _ in range(4):
            farm.submit(spoil).result(PATIENCE_S)
        assert [f.result(PATIENCE_S) for f in [farm.submit(print_all) for _ in range(4)]] == ["printed"] * 4


def test_a_task_that_closes_the_descriptors_of_its_streams(farm: Farm) -> None:
    def close() -> None:
        for descriptor in (0, 1, 2):
            os.close(descriptor)

    def print_by_hand() -> int:
        return os.write(1, b"by hand\n") + os.write(2, b"by hand\n") + len(os.read(0, 1))

    for _ in range(4):
        farm.submit(close).result(PATIENCE_S)
    assert [farm.submit(print_by_hand).result(PATIENCE_S) for _ in range(4)] == [16] * 4


def test_a_task_that_prints_a_lot(farm: Farm) -> None:
    def flood(n: int) -> int:
        for i in range(n):
            print("line", i, "x" * 50)
        os.write(1, b"raw line\n" * 10_000)
        print("y" * 1_000_000)
        print("z\n" * 50_000)
        return n

    assert [f.result(PATIENCE_S) for f in [farm.submit(flood, 20_000) for _ in range(2)]] == [20_000] * 2


def test_an_exception_that_is_very_large(farm: Farm) -> None:
    error = farm.submit(lambda: raise_(ValueError(bytes(20_000_000)))).exception(PATIENCE_S)
    assert isinstance(error, errors.TaskFailed)
    assert "ValueError" in str(error)
    assert "too large" in str(error)
    error = farm.submit(lambda: raise_(ValueError("x" * 1_000_000))).exception(PATIENCE_S)
    assert isinstance(error, ValueError)
    assert len(error.args[0]) == 1_000_000


def test_a_thread_that_a_task_leaves_behind(farm: Farm, meeting: Meeting) -> None:
    place = meeting.place

    def leave() -> str:
        def linger() -> None:
            with knock(place, "thread") as sock:
                sock.recv(1)
                print("the thread goes on printing")

        threading.Thread(target=linger).start()
        return "left"

    assert farm.submit(leave).result(PATIENCE_S) == "left"
    visitor: Visitor = meeting.wait()
    assert [f.result(PATIENCE_S) for f in [farm.submit(len, "abc") for _ in range(50)]] == [3] * 50
    visitor.release()
    visitor.wait_gone()
