"""Packages that tests install: made on the spot, so that no index is needed."""

from __future__ import annotations

import textwrap
import zipfile
from pathlib import Path

BACKEND = """
import socket, zipfile
from pathlib import Path

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    with open({count!r}, "a") as file:
        file.write("built\\n")
    if {place!r}:
        import os, pickle
        with socket.create_connection({place!r}) as sock:
            sock.sendall(pickle.dumps((os.getpid(), "building")))
            sock.recv(1)
    if {problem!r}:
        raise SystemExit({problem!r})
    name = {name!r} + "-1.0-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory, name), "w") as wheel:
        wheel.writestr({name!r} + ".py", {text!r})
        wheel.writestr({name!r} + "-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: " + {name!r} + "\\nVersion: 1.0\\n")
        wheel.writestr({name!r} + "-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr({name!r} + "-1.0.dist-info/RECORD", "")
    return name
"""


def wheel(folder: Path, name: str, text: str, version: str = "1.0", requires: tuple[str, ...] = ()) -> str:
    """A wheel with one module; the requirement that installs it from there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", textwrap.dedent(text))
        archive.writestr(f"{info}/METADATA", "\n".join(head) + "\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"{name} @ {path.as_uri()}"


class Source:
    """A package that is built where it is installed. `builds` counts that; `place` is a meeting to which its build comes."""

    def __init__(self, folder: Path, name: str, text: str = "", problem: str = "", place: object = ()) -> None:
        folder.mkdir(parents=True)
        self._count = folder.with_name(folder.name + ".count")
        self.requirement = f"{name} @ {folder.as_uri()}"
        (folder / "pyproject.toml").write_text(
            f'[project]\nname = "{name}"\nversion = "1.0"\n'
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
        backend = BACKEND.format(count=str(self._count), place=place, problem=problem, name=name, text=text)
        (folder / "backend.py").write_text(backend)

    @property
    def builds(self) -> int:
        return len(self._count.read_text().splitlines()) if self._count.exists() else 0
