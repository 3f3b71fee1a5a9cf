"""The executors that can be measured. Each is imported only when it is asked for; nothing is installed."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple


class Contender(NamedTuple):
    """An executor by the name on the command line."""

    title: str
    module: str  # what must be installed
    open: Callable[[int], contextlib.AbstractContextManager[Executor]]
    calls: int = 20_000  # for a throughput measure; fewer where 20,000 would take minutes
    feeds: bool = False  # takes futures as arguments


@contextlib.contextmanager
def _farmhand(slots: int) -> Iterator[Executor]:
    from farmhand import Farm

    with Farm(max_workers=slots) as farm:
        yield farm


@contextlib.contextmanager
def _pool(slots: int) -> Iterator[Executor]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(slots) as pool:
        yield pool


@contextlib.contextmanager
def _loky(slots: int) -> Iterator[Executor]:
    import loky

    executor = loky.get_reusable_executor(max_workers=slots)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True)


@contextlib.contextmanager
def _dask(slots: int) -> Iterator[Executor]:
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=slots, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        # By hand, and impure: `get_executor` would remember equal calls instead of running them.
        yield _Wrapped(lambda fn, *args: client.submit(fn, *args, pure=False))


@contextlib.contextmanager
def _ray(slots: int) -> Iterator[Executor]:
    import ray

    ray.init(num_cpus=slots, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    remotes: dict[Any, Any] = {}

    def submit(fn: Callable[..., Any], *args: Any) -> Any:
        remote = remotes.get(fn) or remotes.setdefault(fn, ray.remote(fn))
        return _RayFuture(remote.remote(*(arg._reference if type(arg) is _RayFuture else arg for arg in args)))

    try:
        yield _Wrapped(submit)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _parsl(slots: int) -> Iterator[Executor]:
    import os
    import sys
    import tempfile
    from pathlib import Path

    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    # It starts a program of its own that lies beside this Python.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with tempfile.TemporaryDirectory(prefix="parsl-") as folder:
        pool = HighThroughputExecutor(address="127.0.0.1", max_workers_per_node=slots, encrypted=False,
                                      provider=LocalProvider(init_blocks=1, max_blocks=1))  # fmt: skip
        with parsl.load(Config(executors=[pool], run_dir=folder, usage_tracking=0)):
            apps: dict[Any, Any] = {}

            def submit(fn: Callable[..., Any], *args: Any) -> Any:
                app = apps.get(fn) or apps.setdefault(fn, parsl.python_app(fn))
                return app(*args)

            yield _Wrapped(submit)


class _RayFuture:
    """Just enough of a future around an object reference."""

    __slots__ = ("_reference",)

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def result(self) -> Any:
        """Wait for the value."""
        import ray

        return ray.get(self._reference)


class _Wrapped(Executor):
    """An executor around a function that submits; `map` submits everything and takes results in order."""

    def __init__(self, submit: Callable[..., Any]) -> None:
        self._submit = submit

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return self._submit(fn, *args, **kwargs)

    def map(
        self, fn: Callable[..., Any], *iterables: Any, timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        futures = [self._submit(fn, *args) for args in zip(*iterables, strict=False)]
        return (future.result() for future in futures)


CONTENDERS: Final = {
    "farmhand": Contender("Farmhand", "farmhand", _farmhand, feeds=True),
    "ppe": Contender("ProcessPoolExecutor", "concurrent.futures", _pool),
    "loky": Contender("loky", "loky", _loky),
    "dask": Contender("Dask", "distributed", _dask, calls=2_000, feeds=True),
    "ray": Contender("Ray", "ray", _ray, calls=5_000, feeds=True),
    "parsl": Contender("Parsl", "parsl", _parsl, calls=2_000),
}


def installed(name: str) -> bool:
    """Whether a contender can run here."""
    return importlib.util.find_spec(CONTENDERS[name].module) is not None
