"""A backend of joblib that runs the batches of `joblib.Parallel` on a Farm."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from typing import Any

from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from farmhand.client.farm import Farm, FarmView
from farmhand.neighbours.window import Window, slots_of


def run_batch(batch: Any, threads: int | None) -> Any:
    """In a slot: one batch of joblib's calls, with a limit on the threads of native libraries when there is one."""
    if threads is None:
        return batch()
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        return batch()


def _is_aborting(callback: Any) -> bool:
    """Whether a batch is of a `Parallel` that gives up; another's results may be read at the same time."""
    return bool(getattr(getattr(callback, "parallel", None), "_aborting", True))


class FarmhandBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """`joblib.parallel_config(backend="farmhand", farm=farm)`, after `import farmhand.joblib`.

    farm: a `Farm`, or a view made by `farm.options()`. Without one what `Farm()` opens, so `$FARMHAND_FARM` or an embedded one; it
        starts with the first call and ends with this object: when the `parallel_config` is left, or with the `Parallel`.
    inner_max_num_threads: threads of BLAS and OpenMP in each call; the nodes need threadpoolctl for it.

    A negative n_jobs counts from the farm's slots, -1 are all. Fewer than there are slots is the number of batches under
    way at most. With n_jobs=1 joblib runs everything in this process.
    Raises, from the call of `Parallel`: what a call raised; `multiprocessing.TimeoutError`; what `Farm` and `Farm.submit` raise;
    `RuntimeError` when n_jobs counts from the slots and there are none.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(self, farm: Farm | FarmView | None = None, *, nesting_level: int | None = None,
                 inner_max_num_threads: int | None = None) -> None:  # fmt: skip
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        if farm is not None and not isinstance(farm, Farm | FarmView):
            raise TypeError(f"farm must be a Farm or a view on one, not {type(farm).__name__}")
        self._farm = farm
        self._window: Window | None = None
        self._parallels: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        self._opening = threading.RLock()

    # joblib asks this attribute for its verbosity, on each change of the batch size. A Parallel has us, so we must not keep it
    # alive; and one may be configured and gone while another, whose results are being read, goes on.
    @property
    def parallel(self) -> Any:
        """The `joblib.Parallel` that was configured last, of those that exist."""
        with self._opening:
            return next(reversed(list(self._parallels)), None)

    @parallel.setter
    def parallel(self, parallel: Any) -> None:
        with self._opening:
            self._parallels.pop(parallel, None)
            self._parallels[parallel] = None

    # ---- the farm

    def _open(self) -> tuple[Farm | FarmView, Window]:
        with self._opening:
            if self._farm is None:
                self._farm = farm = Farm()
                weakref.finalize(self, farm.shutdown, wait=False)
            if self._window is None:
                self._window = window = Window(self._farm)
                weakref.finalize(self, window.close)
            return self._farm, self._window

    def _slots(self) -> int:
        slots = slots_of(self._open()[0])
        if slots == 0:
            raise RuntimeError("the farm has no slots now; let a node join, or say n_jobs as a positive number")
        return slots

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls run at once. Inside a task that is 1; see the class for the rest."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if self.nesting_level:
            return 1
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        return n_jobs if n_jobs > 0 else max(self._slots() + 1 + n_jobs, 1)

    # ---- what joblib calls, in this order

    def configure(self, n_jobs: int = 1, parallel: Any = None, **ignored: Any) -> int:
        """Before a `Parallel` begins. Other arguments (`temp_folder`, `max_nbytes`, ...) are for local processes."""
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        farm, window = self._open()
        window.bound = 0 if n_jobs == -1 or count >= slots_of(farm) else count
        return count

    def submit(self, func: Any, callback: Any = None) -> None:
        """One batch. The callback gets its future, not on the farm's own thread: it submits the next batch."""
        _, window = self._open()
        tell, function = callback or (lambda _: None), func.items[0][0]
        window.submit(tell, run_batch, (func, self.inner_max_num_threads), of=function)

    apply_async = submit  # its name until joblib 1.5

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The batch's results, from its future; raises what a call raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """A call failed, timed out, or nobody wants the results: withdraw what waits and stop what runs."""
        if self._window is not None:
            self._window.abort(_is_aborting)

    def terminate(self) -> None:
        """At the end of a `Parallel`. The farm stays for the next one."""
        self.reset_batch_stats()
