"""Arrow tables out of band: as arguments, as results, and shared by reference. On one machine they are views of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.integration.executor.meeting import PATIENCE_S
from tests.integration.executor.test_shared import any_farm, file_at

from farmhand import Farm

__all__ = ["any_farm"]

ROWS = 200_000


def table_of(rows: int) -> pa.Table:
    """Numbers, words, gaps, and what has a dictionary beside it; in two chunks."""
    half = pa.table({
        "number": np.arange(rows // 2),
        "word": [f"word {i}" for i in range(rows // 2)],
        "gap": pa.array([None if i % 7 == 0 else i / 2 for i in range(rows // 2)]),
        "kind": pa.array(np.arange(rows // 2) % 3).dictionary_encode(),
    })  # fmt: skip
    return pa.concat_tables([half, half])


def large_buffers(table: pa.Table) -> list[pa.Buffer]:
    chunks = [chunk for column in table.columns for chunk in column.chunks]
    arrays = [a for chunk in chunks for a in ((chunk.indices,) if pa.types.is_dictionary(chunk.type) else (chunk,))]
    return [buffer for array in arrays for buffer in array.buffers() if buffer is not None and buffer.size >= 2**18]


def look(table: pa.Table) -> tuple[int, int, set[bool], set[bool]]:
    """Rows, a sum, whether the memory may be written to, and whether numpy's view of it is the same memory."""
    buffers = large_buffers(table)
    column = table.column("number").chunk(0)
    view = column.to_numpy(zero_copy_only=True)
    same = view.__array_interface__["data"][0] == column.buffers()[1].address
    return table.num_rows, pc.sum(table.column("number")).as_py(), {b.is_mutable for b in buffers}, {same}


def files_of(table: pa.Table) -> set[str]:
    """The files that its large buffers are views of, which may have been removed meanwhile."""
    return {file_at(buffer.address).removesuffix(" (deleted)") for buffer in large_buffers(table)}


def looked_at(rows: int, *, writable: bool) -> tuple[int, int, set[bool], set[bool]]:
    return rows, 2 * sum(range(rows // 2)), {writable}, {True}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return table_of(ROWS)


def test_a_table_there_and_back(any_farm: Farm, table: pa.Table) -> None:
    assert any_farm.submit(look, table).result(PATIENCE_S) == looked_at(ROWS, writable=True)
    assert any_farm.submit(lambda given: look(given["x"][0]), {"x": [table]}).result(PATIENCE_S)[0] == ROWS
    back = any_farm.submit(table_of, ROWS).result(PATIENCE_S)
    assert back.equals(table)
    assert back.schema == table.schema
    back.validate(full=True)


def test_what_calls_share_is_read_only(any_farm: Farm, table: pa.Table) -> None:
    ref = any_farm.scatter(table)
    assert ref.nbytes >= table.nbytes
    assert [any_farm.submit(look, ref).result(PATIENCE_S) for _ in range(4)] == [looked_at(ROWS, writable=False)] * 4
    made = any_farm.submit(table_of, ROWS)
    assert any_farm.submit(look, made).result(PATIENCE_S) == looked_at(ROWS, writable=False)
    with pytest.raises(ValueError, match="read-only"):
        any_farm.submit(write_through_numpy, ref).result(PATIENCE_S)
    assert any_farm.submit(lambda given, other: given.equals(other), ref, made).result(PATIENCE_S)


def write_through_numpy(table: pa.Table) -> None:
    table.column("number").chunk(0).to_numpy(zero_copy_only=True)[0] = 7


def test_equal_tables_are_stored_once(any_farm: Farm, table: pa.Table) -> None:
    futures = [any_farm.submit(look, table) for _ in range(6)]
    sources = {source.large.id for future in futures for source in future._inputs or () if source.large}
    assert len(sources) <= len(large_buffers(table))
    assert {future.result(PATIENCE_S)[0] for future in futures} == {ROWS}


def test_other_shapes(any_farm: Farm, table: pa.Table) -> None:
    batch = table.to_batches()[0]
    empty = table.schema.empty_table()
    for value in (batch, table.column("word"), batch.column(2), empty, table.slice(1000, 50), pa.table({"a": [1]})):
        got = any_farm.submit(lambda x: x, value).result(PATIENCE_S)
        assert (type(got), got.equals(value)) == (type(value), True)
        assert any_farm.submit(len, any_farm.scatter(value)).result(PATIENCE_S) == len(value)


@pytest.fixture(scope="module")
def near(nothing_left_behind: None) -> Iterator[Farm]:
    with Farm(max_workers=2, output=False) as farm:
        yield farm


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel of this system does not tell")
def test_tables_are_views_of_files(near: Farm, table: pa.Table) -> None:
    ref = near.scatter(table)
    (shared,) = {path for _ in range(4) for path in near.submit(files_of, ref).result(PATIENCE_S)}
    assert "farmhand-" in shared
    argument: Any = near.submit(files_of, table).result(PATIENCE_S)
    assert argument
    assert all("farmhand-" in path for path in argument)
    back = files_of(near.submit(table_of, ROWS).result(PATIENCE_S))
    assert len(back) == 1
    assert "farmhand-" in back.pop()
