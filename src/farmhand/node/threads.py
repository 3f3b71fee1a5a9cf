"""How many threads the numerical libraries of a slot use: as many as the cpus that its task was granted.

BLAS and OpenMP take one thread for each processor by default, so two slots on two processors would run four. They read their
number from the environment when they are loaded, and so do the programs that a task starts. One that is loaded already is told:
by threadpoolctl where it is installed, else numpy's and scipy's own OpenBLAS by hand.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

GENERAL: Final = "OMP_NUM_THREADS"  # what the others but one fall back on
_KIND: Final = {  # by variable, as threadpoolctl calls it; empty for what it does not know
    GENERAL: "openmp",
    "OPENBLAS_NUM_THREADS": "openblas",
    "MKL_NUM_THREADS": "mkl",
    "BLIS_NUM_THREADS": "blis",
    "NUMEXPR_NUM_THREADS": "",
    "VECLIB_MAXIMUM_THREADS": "",
}
VARIABLES: Final = tuple(_KIND)
_NO_FALL_BACK: Final = "VECLIB_MAXIMUM_THREADS"
_LOADERS: Final = ("numpy", "scipy", "torch", "numexpr", "mkl")  # who loads such libraries


class Threads:
    """The numbers of this process. What its owner has set in the environment is left alone, with all that falls back on it."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._ours = [name for name in VARIABLES if name not in environment]
        if GENERAL in environment:
            self._ours = [name for name in self._ours if name == _NO_FALL_BACK]
        self.count = 0

    def set(self, count: int) -> None:
        """The next task has so many cpus."""
        if count == self.count:
            return
        self.count = count
        for name in self._ours:
            self._environment[name] = str(count)
        if any(name in sys.modules for name in _LOADERS):
            self._tell_loaded(count)

    def _tell_loaded(self, count: int) -> None:
        kinds = {_KIND[name] for name in self._ours}
        try:
            from threadpoolctl import ThreadpoolController
        except ImportError:
            if "openblas" in kinds:
                _tell_openblas(count)
        else:
            for library in ThreadpoolController().lib_controllers:
                if library.internal_api in kinds:
                    library.set_num_threads(count)
        numexpr: Any = sys.modules.get("numexpr")
        if numexpr is not None and "NUMEXPR_NUM_THREADS" in self._ours:
            with contextlib.suppress(ValueError):  # more than its owner allows
                numexpr.set_num_threads(count)


def _tell_openblas(count: int) -> None:
    """To the OpenBLAS that came in the wheels of numpy and scipy."""
    import ctypes

    for name in ("numpy", "scipy"):
        package = sys.modules.get(name)
        if package is None or not package.__file__:
            continue
        folder = Path(package.__file__).parent
        for place in (folder.with_name(f"{name}.libs"), folder / ".dylibs"):
            for path in place.glob("*openblas*"):
                library = ctypes.CDLL(str(path))  # it is loaded: this finds it
                for symbol in _SYMBOLS:
                    if hasattr(library, symbol):
                        getattr(library, symbol)(ctypes.c_int(count))


_SYMBOLS: Final = [
    f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "_64", "")
]
