"""Writes what this version stores into `tests/golden/VERSION/`: `python tests/golden/make.py`.

It never changes a file that is there: what a version has stored stays stored on people's disks.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import msgspec  # noqa: E402
from tests.golden.stored import STORED  # noqa: E402

from farmhand.model.version import VERSION  # noqa: E402


def make(folder: Path) -> list[str]:
    """Write what is missing in `folder`; the names of those that are there with another content."""
    folder.mkdir(parents=True, exist_ok=True)
    refused = []
    for stored in STORED:
        with tempfile.TemporaryDirectory() as fresh:
            stored.write(Path(fresh))
            content = (Path(fresh) / stored.name).read_bytes()
            expected = msgspec.json.format(msgspec.json.encode(stored.read(Path(fresh)))) + b"\n"
        for path, wanted in ((folder / stored.name, content), (folder / f"{stored.name}.expected", expected)):
            if not path.exists():
                path.write_bytes(wanted)
            elif path.read_bytes() != wanted:
                refused.append(path.name)
    return refused


if __name__ == "__main__":
    if different := make(HERE / VERSION):
        sys.exit(
            f"version {VERSION} has stored these otherwise, and they are left as they are: {', '.join(different)}. "
            "What is stored has changed: give this version another number, and keep what reads the old"
        )
