"""Makes a virtual environment with this project and its development tools in it, or leaves it when it is up to date.

    python tools/environment.py .venv [--without PACKAGE]

The environment is up to date when its stamp says the same about pyproject.toml, the place of the checkout and the
Python version: a moved checkout or a new dependency makes it anew, a second call takes a few milliseconds.
Needs nothing but Python 3.11 with its `venv` module.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
OLDEST: Final = (3, 11)


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def wanted_stamp(folder: Path, without: list[str]) -> str:
    """What an up-to-date environment says about itself."""
    facts = {
        "pyproject": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        "root": str(ROOT),
        "folder": str(folder.absolute()),
        "python": platform.python_version(),
        "without": without,
    }
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"


def run_pip(folder: Path, *arguments: str) -> None:
    """Runs the environment's pip; its output appears only when it fails."""
    command = [str(python_of(folder)), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise SystemExit(f"pip failed in {folder}: {' '.join(arguments)}")


def ensure(folder: Path, without: list[str]) -> None:
    """Makes the environment unless it is up to date. The stamp is written last: a broken attempt is made anew."""
    stamp = folder / "farmhand.stamp"
    wanted = wanted_stamp(folder, without)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted and python_of(folder).exists():
        return
    print(f"setting up {folder} with Python {platform.python_version()} ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(folder)
    run_pip(folder, "install", "--quiet", "--no-compile", "--editable", ".[dev]")
    if without:
        run_pip(folder, "uninstall", "--quiet", "--yes", *without)
    stamp.write_text(wanted, encoding="utf-8")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without", action="append", default=[], metavar="PACKAGE")
    options = parser.parse_args()
    if sys.version_info < OLDEST:
        raise SystemExit(f"Farmhand needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {platform.python_version()}")
    ensure(options.folder, options.without)


if __name__ == "__main__":
    main()
