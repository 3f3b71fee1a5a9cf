"""`import farmhand.joblib` makes `joblib.parallel_config(backend="farmhand")` known. joblib has no other way: no entry point."""

from __future__ import annotations

from joblib import register_parallel_backend

from farmhand.neighbours.joblib_backend import FarmhandBackend

__all__ = ["FarmhandBackend"]

register_parallel_backend("farmhand", FarmhandBackend)
