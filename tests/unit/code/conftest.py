import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from slot_process import Slot

sys.path.pop(0)


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    made = Slot(tmp_path / "slot with blanks")
    yield made
    made.close()


class Project:
    """A folder of the user's own modules on the import path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, inner: str, text: str) -> Path:
        path = self.folder / inner
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return path

    def load(self, name: str) -> ModuleType:
        return importlib.import_module(name)

    def reload(self, module: ModuleType) -> ModuleType:
        # Python trusts a cached module file of the same second and size.
        Path(importlib.util.cache_from_source(str(module.__file__))).unlink(missing_ok=True)
        return importlib.reload(module)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    folder = tmp_path / "project"
    folder.mkdir()
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    yield Project(folder)
    sys.path.remove(str(folder))
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        if str(folder) in f"{getattr(module, '__file__', None)} {getattr(module, '__path__', None)}":
            del sys.modules[name]


@pytest.fixture
def run_client(tmp_path: Path) -> Callable[[str], str]:
    """Runs a script as a client of its own, with a slot at its side; returns what it prints."""
    import os
    import subprocess

    from slot_process import SOURCE

    def run(script: str, *, file: bool = True) -> str:
        prelude = (
            "import sys\nfrom pathlib import Path\nfrom slot_process import Slot\n"
            f"slot = Slot(Path({str(tmp_path / 'client')!r}))\n"
        )
        path = tmp_path / "client.py"
        path.write_text(prelude + script + "\nslot.close()\n")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([SOURCE, str(Path(__file__).parent)])}
        if file:
            command = [sys.executable, "-W", "error", str(path)]
        else:
            command = [sys.executable, "-W", "error", "-c", f"exec({path.read_text()!r}, globals())"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
