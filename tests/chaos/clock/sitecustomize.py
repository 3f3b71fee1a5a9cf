"""A clock that a test can put forward, in each Python process that finds this folder on its path.

The seconds to add are in the file $FARMHAND_TEST_CLOCK, as a double. Python's own waits measure real time; what reads the
clock, as an event loop does to see which timers are due, sees the leap.
"""

import mmap
import os
import struct
import time

if path := os.environ.get("FARMHAND_TEST_CLOCK"):
    with open(path, "rb") as file:  # noqa: PTH123 - each process of the test loads this: the less the better
        _ahead = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    _monotonic, _monotonic_ns = time.monotonic, time.monotonic_ns
    _read = struct.Struct("d").unpack_from

    def monotonic() -> float:
        return _monotonic() + _read(_ahead)[0]

    def monotonic_ns() -> int:
        return _monotonic_ns() + int(_read(_ahead)[0] * 1e9)

    time.monotonic, time.monotonic_ns = monotonic, monotonic_ns
