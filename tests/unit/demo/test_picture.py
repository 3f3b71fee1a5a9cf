from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from farmhand.demo.picture import _load_example, example_file, render_picture


def decode(data: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and rows of a PNG with one filter type, checking every checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + length
    width, height, depth, colours = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    assert (depth, colours, list(chunks)[-1]) == (8, 2, b"IEND")
    raw = zlib.decompress(chunks[b"IDAT"])
    rows = [raw[y * (3 * width + 1) : (y + 1) * (3 * width + 1)] for y in range(height)]
    assert all(row[0] == 0 and len(row) == 3 * width + 1 for row in rows)
    return width, height, [row[1:] for row in rows]


def test_the_picture_is_a_png_of_the_set(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as farm:
        path = render_picture(farm, tmp_path / "set.png", width=150)
    width, height, rows = decode(path.read_bytes())
    assert (width, height) == (150, 100)
    inside = round((0 + 2.15) / 3.0 * 150)
    assert rows[50][3 * inside : 3 * inside + 3] == b"\0\0\0"
    assert rows[0][:3] != b"\0\0\0"
    # The set is symmetric about the real axis, which is row 50.
    assert rows[20] == rows[80]


def test_tiles_cover_the_picture_exactly_once() -> None:
    example = _load_example()
    seen: set[tuple[int, int]] = set()
    for tile in example.tiles(130, 86):
        for y in range(tile.top, tile.top + tile.height):
            for x in range(tile.left, tile.left + tile.width):
                assert (x, y) not in seen
                seen.add((x, y))
    assert len(seen) == 130 * 86


def test_the_example_is_the_one_of_the_repository() -> None:
    assert example_file().parts[-2:] == ("examples", "mandelbrot.py")
