"""AntPool's face: programs written for it change one import.

    from farmhand.antpool import AntPoolExecutor

The commands `antpoolsrv` and `antpoolclient` are there too. Arguments and meanings follow the documentation of AntPool 0.12; what
its users met as faults (errors as strings, lost tasks, code without globals) is as in any Farm instead.
"""

from __future__ import annotations

from farmhand.antpool.executor import AntPoolExecutor

__all__ = ["AntPoolExecutor"]
