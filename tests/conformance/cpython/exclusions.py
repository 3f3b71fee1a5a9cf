"""The tests of CPython's executors that are not run on a farm, each with its reason.

The key is `Class.test` as CPython names it. A shared test must have a very good reason: what it states is what makes an
executor. The pools' own tests are about how these pools are built; those a farm can be asked for are in `RUN_OF_OWN`.
"""

from __future__ import annotations

from typing import Final

from tests.conformance.cpython.suite import Source

_QUEUE = "looks at a pool's private queue and manager thread"
_PROCESSES = "looks at the pool's private list of processes"
_THREADS = "looks at the pool's private list of threads"
_SHARED_MEMORY = "its function changes the caller's memory, which only a thread can"
_SEMAPHORE = "passes a semaphore or lock, which only a thread or a process's own child can inherit"
_OTHER_POOL = "makes a pool of the standard library, not the executor of the fixture"
_RECYCLING = "max_tasks_per_child is an option of ProcessPoolExecutor; its checks look at its private processes"

SHARED: Final[dict[str, str]] = {
    "ExecutorDeadlockTest.test_error_at_task_pickle": (
        "wants the error from the future; a farm raises it from submit, in the caller, before anything is accepted"
    ),
    "ExecutorShutdownTest.test_cancel_futures": (
        "wants a call to have begun microseconds after its submit; a farm cancels all that is not known to run"
    ),
    "ExecutorDeadlockTest.test_shutdown_deadlock_pickle": _QUEUE,
    "ExecutorDeadlockTest.test_gh105829_should_not_deadlock_if_wakeup_pipe_full": (
        "replaces private parts of ProcessPoolExecutor (its wake-up pipe and manager thread)"
    ),
}

OWN: Final[dict[str, str]] = {
    "ThreadPoolExecutorTest.test_map_submits_without_iteration": _SHARED_MEMORY,
    "ThreadPoolExecutorTest.test_default_workers": "its default, cores + 4, is meant for threads that wait",
    "ThreadPoolExecutorTest.test_saturation": _THREADS,
    "ThreadPoolExecutorTest.test_idle_thread_reuse": _THREADS,
    "ThreadPoolExecutorTest.test_hang_global_shutdown_lock": _OTHER_POOL,
    "ThreadPoolExecutorTest.test_executor_map_current_future_cancel": _SHARED_MEMORY,
    "ThreadPoolWaitTests.test_pending_calls_race": _SEMAPHORE,
    "ThreadPoolShutdownTest.test_threads_terminate": _THREADS,
    "ThreadPoolShutdownTest.test_context_manager_shutdown": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_del_shutdown": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_shutdown_no_wait": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_thread_names_assigned": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_thread_names_default": _OTHER_POOL,
    "ThreadPoolShutdownTest.test_cancel_futures_wait_false": _OTHER_POOL,
    "ProcessPoolExecutorTest.test_max_workers_too_large": "a limit of ProcessPoolExecutor on Windows",
    "ProcessPoolExecutorTest.test_killed_child": _PROCESSES + "; a farm survives a killed slot",
    "ProcessPoolExecutorTest.test_traceback": "wants a cause of a private class; a farm adds a note",
    "ProcessPoolExecutorTest.test_saturation": _SEMAPHORE,
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": _PROCESSES,
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": _PROCESSES,
    "ProcessPoolExecutorTest.test_max_tasks_per_child": _RECYCLING,
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": _RECYCLING,
    "ProcessPoolExecutorTest.test_max_tasks_early_shutdown": _RECYCLING,
    "ProcessPoolExecutorTest.test_python_finalization_error": "replaces a private function of `threading`",
    "ProcessPoolShutdownTest.test_processes_terminate": _PROCESSES,
    "ProcessPoolShutdownTest.test_context_manager_shutdown": _OTHER_POOL,
    "ProcessPoolShutdownTest.test_del_shutdown": _OTHER_POOL,
    "ProcessPoolShutdownTest.test_shutdown_no_wait": _OTHER_POOL,
    "FailingInitializerResourcesTest.test_spawn": _OTHER_POOL,
    "FailingInitializerResourcesTest.test_forkserver": _OTHER_POOL,
}

# What a pool promises beyond the shared tests, and a farm does too.
RUN_OF_OWN: Final = frozenset(
    {
        "ProcessPoolExecutorTest.test_map_chunksize",
        "ProcessPoolExecutorTest.test_ressources_gced_in_workers",
    }
)

NOT_JUDGED: Final = "a test of one pool alone that came with a Python version newer than this list"


def reasons(source: Source) -> dict[str, str]:
    """Why tests of a class are not run on a farm: test -> reason."""
    named = {test: f"{source.cls.__name__}.{test}" for test in source.tests}
    if source.shared:
        return {test: SHARED[name] for test, name in named.items() if name in SHARED}
    return {test: OWN.get(name, NOT_JUDGED) for test, name in named.items() if name not in RUN_OF_OWN}
