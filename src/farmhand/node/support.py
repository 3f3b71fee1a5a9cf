"""What a slot needs to run with the Python of an environment: Farmhand as the node has it, and what it imports.

Two folders of links. Farmhand stands first on the import path, so that node and slot are one version whatever the environment
has; its libraries stand last, so that the environment's own are found before them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from farmhand.node.venvs import Place

OWN_PACKAGES: Final = ("msgspec", "cloudpickle")


def command(place: Place | None, cache: Path) -> list[str]:
    """How a slot's process is started; its own arguments follow."""
    if place is None:
        return [sys.executable, "-P", "-m", "farmhand.node.slot"]
    front, end = search_folders(cache, foreign=place.foreign)
    return [str(place.python), "-P", str(Path(__file__).with_name("boot.py")), str(front), str(end)]


def surroundings(place: Place | None) -> dict[str, str]:
    """The variables of a slot's process: its environment is active, and nothing else is on its import path."""
    if place is None:
        return dict(os.environ)
    found = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    path = os.pathsep.join([str(place.python.parent), found.get("PATH", os.defpath)])
    return found | {"VIRTUAL_ENV": str(place.folder), "PATH": path}


def search_folders(cache: Path, *, foreign: bool) -> tuple[Path, Path]:
    """The folders for the front and for the end of the import path. To a `foreign` Python only Farmhand is of use."""
    front = _folder_of(cache, ("farmhand",))
    return front, front if foreign else _folder_of(cache, OWN_PACKAGES)


def _folder_of(cache: Path, names: tuple[str, ...]) -> Path:
    """A folder with links to packages of this process's Python, made when it is not there."""
    packages = {name: _package(name) for name in names}
    key = hashlib.blake2b(repr(packages).encode(), digest_size=6).hexdigest()
    target = cache / "envs" / f"own-{key}" / "site-packages"  # the name tells that these are installed, not the user's
    if not all((target / name).exists() for name in names):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
        try:
            for name, folder in packages.items():
                _link(draft / name, folder)
            with contextlib.suppress(OSError):  # another process was first
                draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _link(link: Path, folder: Path) -> None:
    try:
        link.symlink_to(folder, target_is_directory=True)
    except OSError:  # Windows wants a right for it
        shutil.copytree(folder, link, ignore=shutil.ignore_patterns("__pycache__"))
