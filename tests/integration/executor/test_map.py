"""`map`: order, laziness, bounds, errors, time limits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.integration.executor.meeting import PATIENCE_S, Meeting, Place, arrive
from tests.integration.executor.tally import Tally

from farmhand import Farm
from farmhand.model import limits

UNDER_WAY = 2 * limits.BATCHES_PER_SLOT  # messages for two slots; the first of each new function hold one task


def square(x: int) -> int:
    return x * x


def invert(x: int) -> float:
    return 1 / x


def count_or_fail(x: int, tally: Tally) -> int:
    tally.add()
    return 1 // x


class Source:
    """An iterator that counts how often it was asked."""

    def __init__(self, items: Iterator[int]) -> None:
        self._items = items
        self.pulled = 0

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> int:
        item = next(self._items)
        self.pulled += 1
        return item


def test_results_come_in_order(farm: Farm) -> None:
    assert list(farm.map(square, range(3000), timeout=PATIENCE_S)) == [x * x for x in range(3000)]


def test_several_iterables_the_shortest_counts(farm: Farm) -> None:
    assert list(farm.map(pow, [2, 3, 4], range(10), timeout=PATIENCE_S)) == [1, 3, 16]
    assert list(farm.map(pow, [2, 3], itertools.count(), timeout=PATIENCE_S)) == [1, 3]
    assert list(farm.map(square, [])) == []
    assert list(farm.map(square, iter([]))) == []


def test_over_what_has_a_length_everything_is_submitted_at_once(farm: Farm, tally: Tally) -> None:
    results = farm.map(count_or_fail, [1] * 200, [tally] * 200)
    marker = farm.options(priority=-1).submit(square, 3)
    assert marker.result(PATIENCE_S) == 9
    assert list(results) == [1] * 200
    assert tally.count == 200


def test_submission_needs_no_iteration(farm: Farm, meeting: Meeting) -> None:
    results = farm.map(arrive, [meeting.place], ["here"])
    meeting.wait().release()
    assert next(results) == "here"


def test_over_an_iterator_it_is_lazy_and_bounded(farm: Farm) -> None:
    source = Source(itertools.count())
    results = farm.map(square, source)
    assert source.pulled == limits.MAP_AHEAD
    for taken in range(1, 6001):
        assert next(results) == (taken - 1) ** 2
        assert source.pulled <= taken + limits.MAP_AHEAD
    assert source.pulled > limits.MAP_AHEAD
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("buffersize", [1, 2, 3, 7, 100])
def test_buffersize_bounds_what_is_under_way(farm: Farm, buffersize: int) -> None:
    source = Source(iter(range(50)))
    results = farm.map(square, source, buffersize=buffersize)
    assert source.pulled == min(buffersize, 50)
    for taken, result in enumerate(results, 1):
        assert result == (taken - 1) ** 2
        assert source.pulled <= taken + buffersize
    assert source.pulled == 50


def test_buffersize_over_a_list(farm: Farm) -> None:
    assert list(farm.map(square, list(range(10)), buffersize=1)) == [x * x for x in range(10)]


def test_bad_arguments(farm: Farm) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        farm.map(square, [1], chunksize=0)
    with pytest.raises(ValueError, match="buffersize"):
        farm.map(square, [1], buffersize=0)
    for wrong in ("3", 2.0, True):
        with pytest.raises(TypeError, match="buffersize"):
            farm.map(square, [1], buffersize=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        farm.map(square, 5)  # type: ignore[arg-type]


def test_chunksize_is_accepted(farm: Farm) -> None:
    assert list(farm.map(square, range(20), chunksize=7)) == [x * x for x in range(20)]


def test_an_error_comes_in_its_place_and_ends_the_iteration(farm: Farm) -> None:
    results = farm.map(invert, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def fail_or_arrive(x: int, place: Place, tally: Tally) -> None:
    tally.add()
    if not x:
        raise ZeroDivisionError
    arrive(place, x)


def test_an_error_cancels_the_rest(farm: Farm, meeting: Meeting, tally: Tally) -> None:
    results = farm.map(fail_or_arrive, [0] + [1] * 300, [meeting.place] * 301, [tally] * 301, timeout=PATIENCE_S)
    visitors = [meeting.wait(), meeting.wait()]
    with pytest.raises(ZeroDivisionError):
        next(results)
    for visitor in visitors:
        visitor.release()
    assert farm.options(priority=-6).submit(square, 2).result(PATIENCE_S) == 4
    assert tally.count <= 3 + UNDER_WAY, "the one that failed, the two that ran, and what was on its way"


def pass_or_arrive(x: int, place: Place, tally: Tally) -> None:
    tally.add()
    if x:
        arrive(place)


def test_closing_the_iterator_cancels_the_rest(farm: Farm, meeting: Meeting, tally: Tally) -> None:
    results = farm.map(pass_or_arrive, range(300), [meeting.place] * 300, [tally] * 300, timeout=PATIENCE_S)
    assert next(results) is None
    visitors = [meeting.wait(), meeting.wait()]
    results.close()  # type: ignore[attr-defined]
    for visitor in visitors:
        visitor.release()
    assert farm.options(priority=-6).submit(square, 2).result(PATIENCE_S) == 4
    assert tally.count <= 3 + UNDER_WAY, "the first, the two that ran, and what was on its way"


def test_the_time_limit_counts_from_the_call(farm: Farm, meeting: Meeting) -> None:
    results = farm.map(arrive, [meeting.place], timeout=0.01)
    visitor = meeting.wait()
    with pytest.raises(TimeoutError):
        next(results)
    visitor.release()


def test_an_error_of_the_iterator_reaches_the_caller(farm: Farm) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("the source is broken")

    with pytest.raises(LookupError, match="the source is broken"):
        farm.map(square, items())


def test_an_unpicklable_argument_is_the_callers_error(farm: Farm) -> None:
    with pytest.raises(TypeError, match="pickle"):
        farm.map(square, [1, (x for x in ()), 3])  # type: ignore[list-item]
    assert list(farm.map(square, [1, 2])) == [1, 4]
