"""joblib on a farm: `parallel_config(backend="farmhand")`, with the real joblib and scikit-learn."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed, parallel_config
from tests.integration.executor.conftest import MARK, Script, processes_with, wait_all_gone
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.neighbours.conftest import STANDING_SLOTS

import farmhand.joblib
from farmhand import Farm, errors
from farmhand.node.monitor import usable_cores


@pytest.fixture
def active(farm: Farm) -> Iterator[Farm]:
    """The shared farm as joblib's backend."""
    with parallel_config(backend="farmhand", farm=farm):
        yield farm


def square(number: int) -> int:
    return number * number


def where(_: int = 0) -> int:
    return os.getpid()


def fail(number: int) -> int:
    raise LookupError(f"no {number}")


def fail_at(number: int, bad: int) -> int:
    return fail(number) if number == bad else number


def fail_when_released(place: tuple[str, int]) -> None:
    arrive(place, "fails")
    raise LookupError("released")


def nested(depth: int, n_jobs: int = 2) -> list[Any]:
    """The backends that joblib gives at each level, and the process."""
    parallel = Parallel(n_jobs=n_jobs)
    name = type(parallel._backend).__name__
    inner = parallel(delayed(nested)(depth - 1) for _ in range(2)) if depth else []
    return [name, os.getpid(), inner]


def by_name(_: int) -> list[int]:
    """A task that itself asks for this backend."""
    import farmhand.joblib

    assert farmhand.joblib
    return Parallel(n_jobs=2, backend="farmhand")(delayed(where)() for _ in range(2))


def native_threads() -> set[int]:
    import numpy as np
    from threadpoolctl import threadpool_info

    assert np.ones((2, 2)).sum() == 4
    return {library["num_threads"] for library in threadpool_info()}


# ---- results


def test_it_gives_results_in_order_from_the_farm(active: Farm) -> None:
    assert Parallel()(delayed(square)(i) for i in range(2000)) == [i * i for i in range(2000)]
    assert os.getpid() not in Parallel()(delayed(where)() for _ in range(8))


def test_functions_without_a_module_travel(active: Farm) -> None:
    scale = 3
    assert Parallel()(delayed(lambda x: x * scale)(i) for i in range(5)) == [0, 3, 6, 9, 12]


def test_the_older_way_to_choose_it(farm: Farm) -> None:
    with joblib.parallel_backend("farmhand", n_jobs=2, farm=farm):
        assert Parallel()(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]


def test_an_instance_needs_no_registration(farm: Farm) -> None:
    backend = farmhand.joblib.FarmhandBackend(farm)
    with parallel_config(backend=backend):
        assert Parallel(n_jobs=2)(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]
    assert Parallel(n_jobs=2, backend=backend)(delayed(square)(i) for i in range(3)) == [0, 1, 4]


def test_a_parallel_that_is_kept(active: Farm) -> None:
    with Parallel(n_jobs=2) as parallel:
        for size in (3, 0, 50):
            assert parallel(delayed(square)(i) for i in range(size)) == [i * i for i in range(size)]
        with pytest.raises(LookupError):
            parallel(delayed(fail)(i) for i in range(20))
        assert parallel(delayed(square)(i) for i in range(4)) == [0, 1, 4, 9]


def test_a_generator_gives_results_in_order_while_later_ones_run(active: Farm, meeting: Meeting) -> None:
    places = [delayed(arrive)(meeting.place, word) for word in range(2)]
    results = Parallel(n_jobs=2, batch_size=1, return_as="generator")(places)
    visitors = {visitor.word: visitor for visitor in (meeting.wait(), meeting.wait())}
    visitors[0].release()
    assert next(results) == 0
    visitors[1].release()
    assert list(results) == [1]


def test_an_unordered_generator_gives_what_comes_first(active: Farm, meeting: Meeting) -> None:
    places = [delayed(arrive)(meeting.place, word) for word in range(2)]
    results = Parallel(n_jobs=2, batch_size=1, return_as="generator_unordered")(places)
    visitors = {visitor.word: visitor for visitor in (meeting.wait(), meeting.wait())}
    visitors[1].release()
    assert next(results) == 1
    visitors[0].release()
    assert list(results) == [0]


def test_a_second_parallel_while_a_generator_is_read(active: Farm) -> None:
    outer = Parallel(n_jobs=2, return_as="generator")(delayed(square)(i) for i in range(2000))
    sums = [sum(Parallel(n_jobs=2)(delayed(square)(i) for i in range(3))) for value in outer if value % 500 == 0]
    assert sums == [5] * len([i for i in range(2000) if i * i % 500 == 0])


def test_an_error_leaves_another_parallel_alone(active: Farm, meeting: Meeting) -> None:
    calls = [delayed(arrive)(meeting.place, word) for word in range(3)]
    outer = Parallel(n_jobs=2, batch_size=1, return_as="generator")(calls)
    visitors = [meeting.wait(), meeting.wait()]
    with pytest.raises(TypeError, match="pickle"):
        Parallel(n_jobs=2)(delayed(repr)(threading.Lock()) for _ in range(3))
    for visitor in visitors:
        visitor.release()
    meeting.wait().release()
    assert list(outer) == [0, 1, 2]


def test_large_arguments_through_the_engine() -> None:
    """They are sent while results come, and must not wait for the thread that receives these."""
    with Farm(max_workers=2, output=False, shared_memory=False) as farm, parallel_config(backend="farmhand", farm=farm):
        calls = (delayed(len)(bytes(2_000_000 + i)) for i in range(20))
        assert Parallel(batch_size=1)(calls) == [2_000_000 + i for i in range(20)]


# ---- how many at once


def test_n_jobs_counts_from_the_farms_slots(active: Farm) -> None:
    assert [joblib.effective_n_jobs(n) for n in (-1, -2, -9, 1, 2, 7)] == [2, 1, 1, 1, 2, 7]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.effective_n_jobs(0)
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)(delayed(square)(i) for i in range(3))


def test_one_job_runs_here(active: Farm) -> None:
    assert set(Parallel(n_jobs=1)(delayed(where)() for _ in range(3))) == {os.getpid()}


def test_no_more_are_under_way_than_n_jobs(meeting: Meeting) -> None:
    with Farm(max_workers=3, output=False) as farm, parallel_config(backend="farmhand", farm=farm):
        calls = [delayed(arrive)(meeting.place, word) for word in range(6)]
        results = Parallel(n_jobs=2, batch_size=1, pre_dispatch="all", return_as="generator")(calls)
        visitors = [meeting.wait(), meeting.wait()]
        for _ in range(4):
            assert farm.submit(square, 3).result(PATIENCE_S) == 9  # the third slot is free
            assert meeting.nobody_came()
            visitors.pop(0).release()
            visitors.append(meeting.wait())
        for visitor in visitors:
            visitor.release()
        assert list(results) == list(range(6))


def test_the_threads_of_native_libraries_can_be_limited(farm: Farm) -> None:
    with parallel_config(backend="farmhand", farm=farm, inner_max_num_threads=1):
        for found in Parallel(n_jobs=2, batch_size=1)(delayed(native_threads)() for _ in range(4)):
            assert found <= {1}


# ---- errors


def test_an_exception_keeps_its_type_and_tells_where(active: Farm) -> None:
    with pytest.raises(LookupError, match="no 7") as caught:
        Parallel()(delayed(fail_at)(i, 7) for i in range(100))
    assert "in fail" in str(caught.value.__cause__)
    assert Parallel()(delayed(square)(i) for i in range(3)) == [0, 1, 4]


def test_an_error_stops_what_runs_and_withdraws_what_waits(active: Farm, meeting: Meeting) -> None:
    calls = [delayed(arrive)(meeting.place), delayed(fail_when_released)(meeting.place)]
    calls += [delayed(arrive)(meeting.place, i) for i in range(50)]  # nobody will release them
    results = Parallel(n_jobs=2, batch_size=1, pre_dispatch="all", return_as="generator")(calls)
    visitors = {visitor.word: visitor for visitor in (meeting.wait(), meeting.wait())}
    visitors.pop("fails").release()
    with pytest.raises(LookupError, match="released"):
        list(results)
    for visitor in visitors.values():
        visitor.wait_gone()
    assert active.submit(square, 2).result(PATIENCE_S) == 4


def test_a_timeout(active: Farm, meeting: Meeting) -> None:
    with pytest.raises(multiprocessing.TimeoutError):  # joblib's own
        Parallel(n_jobs=2, timeout=0.2)(delayed(arrive)(meeting.place) for _ in range(4))
    assert active.submit(square, 2).result(PATIENCE_S) == 4


def test_a_generator_that_is_dropped_stops_its_calls(active: Farm, meeting: Meeting) -> None:
    results = Parallel(n_jobs=2, batch_size=1, return_as="generator")(delayed(arrive)(meeting.place) for _ in range(4))
    visitors = [meeting.wait(), meeting.wait()]
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()
    for visitor in visitors:
        visitor.wait_gone()
    assert active.submit(square, 2).result(PATIENCE_S) == 4


def test_a_task_that_kills_its_slot(active: Farm) -> None:
    with pytest.raises(BrokenProcessPool) as caught:
        Parallel(n_jobs=2, batch_size=1)(delayed(os._exit)(3) for _ in range(2))
    assert isinstance(caught.value, errors.TaskCrashed)


@pytest.mark.parametrize("at", [0, 30])
def test_arguments_that_cannot_be_pickled(active: Farm, at: int) -> None:
    """Also when it is seen only while a later batch is submitted."""
    with pytest.raises(TypeError, match="pickle"):
        Parallel(n_jobs=2, batch_size=1)(delayed(repr)(threading.Lock() if i == at else i) for i in range(40))


def test_a_source_that_fails(active: Farm) -> None:
    def source() -> Iterator[Any]:
        yield from (delayed(square)(i) for i in range(30))
        raise OSError("the tape is torn")

    with pytest.raises(OSError, match="torn"):
        Parallel(n_jobs=2, batch_size=1)(source())


def test_options_of_a_view(farm: Farm, meeting: Meeting) -> None:
    with parallel_config(backend="farmhand", farm=farm.options(timeout=0.2)), pytest.raises(errors.TaskTimedOut):
        Parallel(n_jobs=2, batch_size=1)(delayed(arrive)(meeting.place) for _ in range(2))


def test_what_is_no_farm() -> None:
    with pytest.raises(TypeError, match="Farm"), parallel_config(backend="farmhand", farm="tls://somewhere:4222"):
        pass


# ---- nested


def test_nested_calls_use_threads_and_then_none(active: Farm) -> None:
    for first, pid, second in Parallel(n_jobs=2)(delayed(nested)(2) for _ in range(2)):
        assert first == "ThreadingBackend"
        assert pid != os.getpid()
        for name, inner_pid, third in second:
            assert name == "SequentialBackend"
            assert inner_pid == pid
            assert [innermost[0] for innermost in third] == ["SequentialBackend"] * 2


def test_a_task_that_asks_for_a_farm_of_its_own_gets_none(active: Farm) -> None:
    for pids in Parallel(n_jobs=2)(delayed(by_name)(i) for i in range(2)):
        assert len(set(pids)) == 1
        assert os.getpid() not in pids


# ---- which farm


def test_an_embedded_farm_lives_as_long_as_the_backend_is_active() -> None:
    mark = os.environ[MARK]
    before = {p.pid for p in processes_with(mark)}
    with parallel_config(backend="farmhand", n_jobs=-1):
        assert {p.pid for p in processes_with(mark)} == before
        with parallel_config(n_jobs=2):
            first = set(Parallel(batch_size=1)(delayed(where)() for _ in range(20)))
            again = set(Parallel(batch_size=1)(delayed(where)() for _ in range(20)))
        here = {p.pid for p in processes_with(mark)}
        assert first | again <= here
    gone = [p for p in processes_with(mark) if p.pid not in before]
    for process in gone:
        process.wait(15)


def test_a_parallel_with_its_own_backend_ends_its_farm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, "parallel's own farm")
    parallel = Parallel(n_jobs=2, backend="farmhand")
    assert parallel(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]
    assert processes_with("parallel's own farm")
    gone = weakref.ref(parallel)
    del parallel
    gc.collect()
    assert gone() is None
    wait_all_gone("parallel's own farm")


FROM_THE_ENVIRONMENT = """
    import joblib, os
    from joblib import Parallel, delayed
    import farmhand.joblib

    with joblib.parallel_config(backend="farmhand", n_jobs=-1):
        print(joblib.effective_n_jobs(), *Parallel()(delayed(lambda i: i + 1)(i) for i in range(3)))
"""


def test_a_program_on_the_farm_of_its_environment(standing_farm: str, script: Script) -> None:
    wait_for_slots(standing_farm)
    done = script.run(FROM_THE_ENVIRONMENT, FARMHAND_FARM=standing_farm)
    assert done.stdout.split() == [str(STANDING_SLOTS), "1", "2", "3"]
    assert done.stderr == ""


def wait_for_slots(address: str) -> None:
    """The steward knows of a node's slots with its first heartbeat."""
    with Farm(address) as farm:
        farm.submit(where).result(PATIENCE_S)
        while not farm.status()["nodes"]:
            pass


def test_a_program_with_an_embedded_farm(script: Script) -> None:
    done = script.run(FROM_THE_ENVIRONMENT)
    assert done.stdout.split() == [str(usable_cores()), "1", "2", "3"]
    assert done.stderr == ""
