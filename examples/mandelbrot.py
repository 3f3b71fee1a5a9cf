"""Renders the Mandelbrot set by tiles on a farm and writes it as a PNG.

    python examples/mandelbrot.py [--size 1200] [--out mandelbrot.png] [--farm ADDRESS]

Each tile is a task. Tiles near the set take a hundred times as long as those far from it, so slots that finish early
take further tiles: nobody has to divide the picture evenly. Pure Python, so that it runs wherever Python does.
"""

from __future__ import annotations

import argparse
import math
import struct
import zlib
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

TILE = 64  # pixels, both ways
ITERATIONS = 160
# The part of the plane that is shown: its left edge, upper edge and width. The picture is two thirds as high as wide.
LEFT, TOP, SPAN = -2.15, 1.0, 3.0


class Tile(NamedTuple):
    """A rectangle of the picture, in pixels, and the size of the whole picture."""

    left: int
    top: int
    width: int
    height: int
    picture_width: int


def tiles(width: int, height: int) -> list[Tile]:
    """The whole picture in tiles, row by row."""
    return [
        Tile(left, top, min(TILE, width - left), min(TILE, height - top), width)
        for top in range(0, height, TILE)
        for left in range(0, width, TILE)
    ]


def render_tile(tile: Tile) -> bytes:
    """A tile's pixels, row by row, three bytes (red, green, blue) each."""
    step = SPAN / tile.picture_width
    pixels = bytearray()
    for row in range(tile.top, tile.top + tile.height):
        for column in range(tile.left, tile.left + tile.width):
            pixels += colour(escape_time(complex(LEFT + column * step, TOP - row * step)))
    return bytes(pixels)


def escape_time(c: complex) -> float:
    """How many iterations `c` takes to escape, with a fraction for smooth colours; infinity inside the set."""
    x, y = c.real, c.imag
    # The two large bulbs are known to be inside, and would cost the most.
    q = (x - 0.25) ** 2 + y * y
    if q * (q + x - 0.25) <= 0.25 * y * y or (x + 1) ** 2 + y * y <= 0.0625:
        return math.inf
    z = c
    for count in range(ITERATIONS):
        if z.real * z.real + z.imag * z.imag > 64.0:
            return count + 1 - math.log2(math.log(abs(z)))
        z = z * z + c
    return math.inf


def colour(escape: float) -> bytes:
    """Red, green and blue: black inside the set, and a slow turn from night blue over white and gold outside."""
    if math.isinf(escape):
        return bytes(3)
    turn = 0.6 * math.sqrt(max(escape, 0.0))
    return bytes(int(127.5 - 127.5 * math.cos(turn + shift)) for shift in (0.0, 0.35, 0.9))


def assemble(parts: list[tuple[Tile, bytes]], width: int, height: int) -> bytes:
    """The whole picture's pixels from its tiles, in whatever order these come."""
    picture = bytearray(3 * width * height)
    for tile, pixels in parts:
        for row in range(tile.height):
            start = 3 * ((tile.top + row) * width + tile.left)
            picture[start : start + 3 * tile.width] = pixels[3 * tile.width * row : 3 * tile.width * (row + 1)]
    return bytes(picture)


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG file of 8-bit RGB pixels (PNG specification, chapters 5 and 11)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    # Each row begins with its filter: 0, none.
    rows = b"".join(b"\0" + pixels[start : start + 3 * width] for start in range(0, len(pixels), 3 * width))
    data = zlib.compress(rows, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def render(farm: Executor, out: Path, *, width: int) -> Path:
    """Renders the picture on a farm, or on any other executor, and returns the absolute path of the PNG."""
    height = width * 2 // 3
    plan = tiles(width, height)
    parts = list(zip(plan, farm.map(render_tile, plan), strict=True))
    out.write_bytes(png(width, height, assemble(parts, width, height)))
    return out.resolve()


def main() -> None:
    """Reads the command line and renders."""
    from farmhand import Farm

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=1200, metavar="PIXELS", help="the width of the picture")
    parser.add_argument("--out", type=Path, default=Path("mandelbrot.png"), metavar="FILE")
    parser.add_argument("--farm", metavar="ADDRESS", help="the farm to use; by default one of this machine alone")
    options = parser.parse_args()
    with Farm(options.farm) as farm:
        print(render(farm, options.out, width=options.size))


if __name__ == "__main__":
    main()
