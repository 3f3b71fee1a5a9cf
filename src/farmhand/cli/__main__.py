"""`python -m farmhand.cli`: the same as the command `farmhand`, for a Python that has no command installed."""

from __future__ import annotations

from farmhand.cli.main import main

if __name__ == "__main__":
    main()
