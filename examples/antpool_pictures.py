"""Draws pictures and brings them back as JPEG bytes: with threads, with processes, and with a farm.

    python examples/antpool_pictures.py [COUNT] [ADDRESS]

The same function runs in all three. It imports what it needs where it runs, so a node must have Pillow.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

from farmhand.antpool import AntPoolExecutor


def draw(width: int, height: int) -> tuple[int, bytes]:
    """A thousand frames at random places, and a plot of the logistic map over them. The size in bytes, and the JPEG."""
    import io
    import random

    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    for _ in range(1000):
        left, right = sorted(random.randrange(width) for _ in range(2))
        top, bottom = sorted(random.randrange(height) for _ in range(2))
        pen.rectangle((left, top, right, bottom), outline=tuple(random.randrange(256) for _ in range(3)))
    for column in range(width):
        rate, value = 2.8 + 1.2 * column / width, 0.5
        for step in range(80):
            value = rate * value * (1 - value)
            if step >= 50:
                pen.point((column, int((1 - value) * (height - 1))), "black")
    data = io.BytesIO()
    picture.save(data, "JPEG")
    return len(data.getvalue()), data.getvalue()


def measure(name: str, pool: Executor, count: int) -> list[bytes]:
    """Draw so many pictures; say how long it took and how much came back."""
    began = time.perf_counter()
    with pool:
        found = list(pool.map(draw, [512] * count, [400] * count))
    kilobytes = sum(size for size, _ in found) // 1024
    print(f"{name:10} {count} pictures, {kilobytes} kB, {time.perf_counter() - began:.2f} s")
    return [data for _, data in found]


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    address = sys.argv[2] if len(sys.argv) > 2 else "ws://127.0.0.1:8086"
    measure("threads", ThreadPoolExecutor(2), count)
    measure("processes", ProcessPoolExecutor(2), count)
    measure("farm", AntPoolExecutor(address), count)
