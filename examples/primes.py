"""Counts primes in blocks, takes the results as they come, and says which node found how many.

    python examples/primes.py [--below 2000000] [--farm ADDRESS]

The plain use of an Executor: `submit`, `as_completed`, and nothing else of Farmhand's own.
"""

from __future__ import annotations

import argparse
import platform
from collections import Counter
from concurrent.futures import Future, as_completed
from typing import NamedTuple

BLOCK = 100_000  # numbers a task: about a tenth of a second


class Found(NamedTuple):
    """What one task found."""

    node: str
    primes: int


def count_primes(first: int, end: int) -> Found:
    """How many primes there are from `first` to before `end`, by a sieve."""
    block = bytearray([1]) * (end - first)
    for divisor in range(2, int(end**0.5) + 1):
        start = max(divisor * divisor, -(-first // divisor) * divisor) - first
        block[start::divisor] = bytes(len(range(start, len(block), divisor)))
    for small in range(first, min(end, 2)):  # 0 and 1 are none
        block[small - first] = 0
    return Found(platform.node(), sum(block))


def main() -> None:
    """Read the options, count, print."""
    from farmhand import Farm

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--below", type=int, default=2_000_000)
    parser.add_argument("--farm", help="a farm's address; without it a farm on this machine for as long as this runs")
    given = parser.parse_args()
    by_node: Counter[str] = Counter()
    with Farm(given.farm) as farm:
        ends = range(0, given.below, BLOCK)
        futures: list[Future[Found]] = [
            farm.submit(count_primes, first, min(first + BLOCK, given.below)) for first in ends
        ]
        for future in as_completed(futures):
            found = future.result()
            by_node[found.node] += found.primes
    for node, primes in by_node.most_common():
        print(f"{node}: {primes:,}")
    print(f"primes below {given.below:,}: {by_node.total():,}")


if __name__ == "__main__":
    main()
