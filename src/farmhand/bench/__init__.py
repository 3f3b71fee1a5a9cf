"""`farmhand bench`: Farmhand measured beside what people use now, on this machine, in one run, as ratios."""

from farmhand.bench.run import main

__all__ = ["main"]
