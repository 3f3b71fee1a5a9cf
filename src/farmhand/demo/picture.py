"""Lets the example `mandelbrot.py` render its picture on the demo's farm.

The example stays what a reader of the repository runs: one file that imports nothing of the demo. Here it is loaded as
its user's module would be, so its functions travel to the nodes as a user's do.
"""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import Executor
from pathlib import Path
from types import ModuleType
from typing import Final

NAME: Final = "mandelbrot"


def example_file() -> Path:
    """Where the example is: beside this module when Farmhand is installed, in the repository otherwise.

    Raises:
        FileNotFoundError: neither has it.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "examples", here.parents[2] / "examples"):
        if (folder / f"{NAME}.py").exists():
            return folder / f"{NAME}.py"
    raise FileNotFoundError(f"{NAME}.py is neither in {here / 'examples'} nor in {here.parents[2] / 'examples'}")


def render_picture(farm: Executor, path: Path, *, width: int) -> Path:
    """Renders the picture on the farm and returns where it is, as an absolute path."""
    module = _load_example()
    written = module.render(farm, path, width=width)
    assert isinstance(written, Path)
    return written


def _load_example() -> ModuleType:
    file = example_file()
    spec = importlib.util.spec_from_file_location(NAME, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pickling finds the tiles' function through the list of modules.
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module
