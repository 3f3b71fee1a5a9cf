"""`python -m farmhand.testing SEED`: one simulated world, with everything that happened in it."""

from __future__ import annotations

import sys

from farmhand.testing.world import run_seed


def main(seed: int) -> int:
    """Print the trace of a seed; 1 when a promise was broken."""
    trace: list[str] = []
    verdict = run_seed(seed, trace)
    sys.stdout.write("\n".join([*trace, str(verdict), ""]))
    return 1 if verdict.problem else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
