"""Large data that calls share: scattered objects, equal arguments, arrays out of band."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.executor.meeting import PATIENCE_S
from tests.integration.executor.test_inputs import large_files, stored, wait_until

from farmhand import AsyncFarm, Farm, errors

MB = 1024 * 1024


class Model:
    def __init__(self, weights: Any) -> None:
        self.weights = weights


def look(array: Any) -> tuple[bool, int, int]:
    return bool(array.flags.writeable), int(array[0]), int(array[-1])


def write(array: Any) -> int:
    array[0] = 7
    return int(array.sum())


def place_of(array: Any) -> str:
    """The file that an array is a view of."""
    return file_at(array.__array_interface__["data"][0])


def file_at(address: int) -> str:
    """The file that is mapped there, as the kernel sees it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, path = line.split(maxsplit=5) if line.count("/") else (*line.split()[:1], "")
        first, last = (int(bound, 16) for bound in span.split("-"))
        if first <= address < last:
            return path
    return ""


@pytest.fixture(scope="module", params=["shared memory", "network"])
def any_farm(request: pytest.FixtureRequest, nothing_left_behind: None) -> Iterator[Farm]:
    with Farm(max_workers=2, nodes=2, output=False, shared_memory=request.param == "shared memory") as farm:
        yield farm


def test_a_scattered_object_travels_once(any_farm: Farm) -> None:
    data = np.arange(6 * MB, dtype=np.uint8)
    ref = any_farm.scatter(data)
    assert ref.nbytes >= 6 * MB
    futures = [any_farm.submit(look, ref) for _ in range(20)]
    assert {future.result(PATIENCE_S) for future in futures} == {(False, 0, 255)}
    assert set(large_files(any_farm)) == {ref.nbytes}
    if any_farm._driver.config.spool:
        assert len(large_files(any_farm)) == 1  # for both nodes
    else:
        assert len(large_files(any_farm)) <= 2  # one for each node


def test_references_anywhere_and_small_ones(any_farm: Farm) -> None:
    small, large = any_farm.scatter({"a": [1]}), any_farm.scatter(Model(np.ones(MB)))
    assert any_farm.submit(lambda given: given["x"][0], {"x": [small]}).result(PATIENCE_S) == {"a": [1]}
    assert small.nbytes == 0
    view = any_farm.options(name="view")
    assert list(view.map(lambda model, factor: float(model.weights.sum() * factor), [large] * 3, range(3))) == [
        0.0, 1.0 * MB, 2.0 * MB,
    ]  # fmt: skip


def test_what_nobody_refers_to_is_collected(any_farm: Farm) -> None:
    ref = any_farm.scatter(np.ones(MB))
    future = any_farm.submit(np.sum, ref)
    del ref
    gc.collect()
    assert future.result(PATIENCE_S) == MB
    if any_farm._driver.config.spool:
        wait_until(any_farm, lambda: not large_files(any_farm))
    wait_until(any_farm, lambda: stored(any_farm) < MB)


def test_a_reference_whose_object_is_gone_is_named(any_farm: Farm) -> None:
    ref = any_farm.scatter(np.ones(MB))
    any_farm._driver.forget(ref._source.large)
    wait_until(any_farm, lambda: stored(any_farm) < MB)
    with pytest.raises(errors.InputLost, match="the object of type ndarray that was scattered is gone from the farm"):
        any_farm.submit(np.sum, ref).result(PATIENCE_S)


def test_a_reference_elsewhere(any_farm: Farm) -> None:
    ref = any_farm.scatter(np.ones(MB))
    with pytest.raises(TypeError, match="a Ref belongs to the Farm that made it"):
        pickle.dumps(ref)
    with Farm(max_workers=1, output=False) as other, pytest.raises(errors.BadOption, match="belongs to another Farm"):
        other.submit(len, ref)


def test_equal_memory_is_stored_once(any_farm: Farm) -> None:
    data, again = np.arange(5 * MB, dtype=np.uint8), np.arange(5 * MB, dtype=np.uint8)
    futures = [any_farm.submit(look, array) for array in (data, again) * 5]
    sources = {future._inputs[0].large.id for future in futures if future._inputs and future._inputs[0].large}
    assert len(sources) <= 1
    assert {future.result(PATIENCE_S) for future in futures} == {(True, 0, 255)}
    data[0] = 9  # the same object, with another content
    assert any_farm.submit(look, data).result(PATIENCE_S) == (True, 9, 255)
    assert any_farm.submit(look, again).result(PATIENCE_S) == (True, 0, 255)
    nested = [any_farm.submit(lambda given: given["k"][0].shape, {"k": [array]}) for array in (data, again)]
    assert [future.result(PATIENCE_S) for future in nested] == [(5 * MB,)] * 2


def test_an_argument_may_be_written_to_and_nobody_else_sees_it(any_farm: Farm) -> None:
    data = np.zeros(2 * MB, dtype=np.uint8)
    assert [any_farm.submit(write, data).result(PATIENCE_S) for _ in range(4)] == [7] * 4
    assert data[0] == 0
    ref = any_farm.scatter(data)
    with pytest.raises(ValueError, match="read-only"):
        any_farm.submit(write, ref).result(PATIENCE_S)
    assert any_farm.submit(lambda array: write(array.copy()), ref).result(PATIENCE_S) == 7


def test_a_result_is_writable_here(any_farm: Farm) -> None:
    back = any_farm.submit(np.ones, MB).result(PATIENCE_S)
    back[0] = 5
    assert back.sum() == MB + 4


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel of this system does not tell")
def test_arrays_are_views_of_one_file() -> None:
    with Farm(max_workers=2, output=False) as farm:
        data = np.ones(MB)
        ref = farm.scatter(data)
        places = {farm.submit(place_of, ref).result(PATIENCE_S) for _ in range(4)}
        assert len(places) == 1
        assert "farmhand-" in places.pop()
        assert "farmhand-" in farm.submit(place_of, data).result(PATIENCE_S)
        assert "farmhand-" in place_of(farm.submit(np.ones, MB).result(PATIENCE_S))


def test_kinds_of_memory(any_farm: Farm) -> None:
    strided, fortran = np.arange(4 * MB)[::2], np.asfortranarray(np.ones((1000, 1000)))
    for value in (strided, fortran):
        assert np.array_equal(any_farm.submit(lambda x: x, value).result(PATIENCE_S), value)
        assert np.array_equal(any_farm.submit(lambda x: x, any_farm.scatter(value)).result(PATIENCE_S), value)
    for plain in (b"\x05" * MB, bytearray(MB), "ü" * MB, list(range(200_000))):
        got = any_farm.submit(lambda x: x, plain).result(PATIENCE_S)
        assert (type(got), got) == (type(plain), plain)
    got, number = any_farm.submit(lambda *x: x, b"\x01" * MB, list(range(200_000))).result(PATIENCE_S)
    assert (len(got), len(number)) == (MB, 200_000)


def test_with_asyncio() -> None:
    async def main() -> None:
        async with AsyncFarm(max_workers=2, output=False) as farm:
            ref = await farm.scatter(np.ones(MB))
            assert await farm.submit(np.sum, ref) == MB

    asyncio.run(main())
