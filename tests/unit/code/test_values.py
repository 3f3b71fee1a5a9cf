"""Arguments and results as bytes, small and large."""

import dataclasses
import subprocess
import sys
import textwrap
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from slot_process import SOURCE

from farmhand.code.container import write_mapped_result
from farmhand.code.pack import Packer
from farmhand.code.values import (
    estimate_size,
    load_from,
    pack_result,
    pack_values,
    unpack_result,
    unpack_values,
)
from farmhand.errors import ResultUndecodable


@dataclasses.dataclass
class Point:
    x: int


def test_plain_arguments_are_not_pickled():
    args = (1, 2.5, True, None, "text", b"bytes")
    entry, bundles = Packer().pack_call(args, {})
    assert entry is args
    assert bundles == ()


@pytest.mark.parametrize(
    "args", [("x" * 1025,), (1 << 63,), (-1 << 63,), ("\udcff",), ([],), (1,) * 17, (Point(1),), (memoryview(b"ab"),)]
)
def test_all_others_are(args):
    entry, _ = Packer().pack_call(args, {})
    assert type(entry) is bytes


def test_values_of_a_message_survive():
    packer = Packer()
    entries = [
        packer.pack_call(args, {})[0]
        for args in ((1,), ([1, {2: (3,)}],), (), ((1 << 63) - 1, "ä", b"\xff", 2.5, None, True))
    ]
    assert unpack_values(pack_values(entries)) == entries


@pytest.mark.parametrize("value", [None, 1, "x" * 5000, [1, {"a": {2}}], 1 << 5000, Point(3), {"k": np.float64(2)}])
def test_results_survive(value):
    assert unpack_result(pack_result(value)) == value


def test_a_result_that_cannot_be_read_is_named():
    with pytest.raises(ResultUndecodable, match="ModuleNotFoundError"):
        unpack_result(b"cno_such_module\nf\n.")


def test_arrays_and_views_travel(slot):
    array = np.arange(12.0).reshape(3, 4)
    assert slot.run(lambda a: a.sum(), array) == 66.0
    back = slot.run(lambda a: a * 2, array.T)
    assert np.array_equal(back, array.T * 2)
    assert slot.run(bytes, memoryview(b"abcdef")[1:4]) == b"bcd"
    assert slot.run(bytes, memoryview(b"abcdef")[::2]) == b"ace"
    assert slot.run(lambda v: type(v).__name__, memoryview(bytearray(b"abc"))) == "bytes"


def test_estimates():
    assert 1000 <= estimate_size((b"x" * 1000,), {}) < 1100
    assert 8000 <= estimate_size((np.zeros(1000),), {}) < 8100
    assert 3_000_000 <= estimate_size(([b"x" * 1_000_000] * 3, 5), {"k": "abc"}) < 3_001_000
    assert estimate_size(([b"x" * 100] * 10_000,), {}) > 500_000
    assert estimate_size((Point(1),), {}) < 100


@pytest.mark.parametrize(
    "value",
    [b"x" * 300_000, bytearray(b"y" * 300_000), np.arange(100_000), "text" * 100_000, [1, (2, Point(3))]],
    ids=["bytes", "bytearray", "array", "str", "mixed"],
)
def test_what_is_written_in_pieces_is_read_back(value):
    pieces = []
    Packer().pack_call_into((value,), {"k": 1}, lambda piece: pieces.append(bytes(piece)))
    args, kwargs = load_from(BytesIO(b"".join(pieces)))
    assert kwargs == {"k": 1}
    assert type(args[0]) is type(value)
    assert np.array_equal(args[0], value) if isinstance(value, np.ndarray) else args[0] == value


def test_a_large_result_that_cannot_be_pickled_is_named():
    with pytest.raises(TypeError) as caught:
        write_mapped_result((n for n in ()), lambda _: None)
    assert any("generator" in note for note in caught.value.__notes__)


PEAK = textwrap.dedent(
    """
    import sys, tracemalloc
    import numpy as np
    from farmhand.code.pack import Packer
    from farmhand.code.values import load_from
    MB = 1024 * 1024
    kind, path = sys.argv[1:]
    size = 256 * MB
    value = {"bytes": lambda: bytes(size), "bytearray": lambda: bytearray(size),
             "array": lambda: np.zeros(size // 8), "view": lambda: memoryview(bytearray(size))}[kind]()
    packer = Packer()
    packer.pack_call_into(([1, np.zeros(1)],), {}, lambda _: None)
    tracemalloc.start()
    with open(path, "wb", buffering=0) as file:
        def write(piece):
            view = memoryview(piece).cast("B")
            while view:
                view = view[file.write(view):]
        packer.pack_call_into((value,), {}, write)
    packing = tracemalloc.get_traced_memory()[1]
    del value
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with open(path, "rb") as file:
        args, _ = load_from(file)
    loading = tracemalloc.get_traced_memory()[1] - before
    got = args[0].nbytes if hasattr(args[0], "nbytes") else len(args[0])
    assert got == size, got
    print(packing // MB, loading // MB - 256)
    """
)


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "array", "view"])
def test_large_values_are_in_memory_once(tmp_path, kind):
    done = subprocess.run(
        [sys.executable, "-c", PEAK, kind, str(tmp_path / "value")],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": SOURCE, "OPENBLAS_NUM_THREADS": "1"},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    packing, loading = map(int, done.stdout.split())
    assert packing < 20
    assert loading < 20
    Path(tmp_path / "value").unlink()
