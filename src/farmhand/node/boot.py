"""Starts a slot with the Python of an environment: `python -P boot.py FRONT END ARGUMENT...`.

Run as a file, because nothing of Farmhand can be imported before the two folders are on the import path.
"""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    """Put the folders in place and become the slot."""
    front, end = sys.argv[1:3]
    del sys.argv[1:3]
    sys.path.insert(0, front)
    if end != front:
        sys.path.append(end)
    runpy.run_module("farmhand.node.slot", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
