"""A Farm is a `concurrent.futures.Executor`: what that promises, on a real farm."""

from __future__ import annotations

import concurrent.futures as cf
import os
import threading
from concurrent.futures import Executor, Future

import pytest
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.executor.tally import Tally

from farmhand import Farm, errors
from farmhand.model import limits


def add(left: int, right: int = 0) -> int:
    return left + right


def keywords(*args: object, **kwargs: object) -> tuple[object, object]:
    return args, kwargs


def fail(text: str) -> None:
    raise ValueError(text)


def test_it_is_an_executor_and_gives_real_futures(farm: Farm) -> None:
    assert isinstance(farm, Executor)
    future = farm.submit(add, 40, right=2)
    assert isinstance(future, Future)
    assert future.result(PATIENCE_S) == 42
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert future.exception() is None


def test_the_functions_keywords_are_its_own(farm: Farm) -> None:
    given = dict.fromkeys(("fn", "self", "timeout", "name", "needs", "retries", "priority", "options", "chunksize"), 1)
    assert farm.submit(keywords, 1, **given).result(PATIENCE_S) == ((1,), given)


def test_an_exception_is_raised_and_kept(farm: Farm) -> None:
    future = farm.submit(fail, "no")
    with pytest.raises(ValueError, match="no"):
        future.result(PATIENCE_S)
    assert isinstance(future.exception(), ValueError)


def test_submit_of_what_is_not_callable(farm: Farm) -> None:
    with pytest.raises(TypeError):
        farm.submit(5).result(PATIENCE_S)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        farm.submit()  # type: ignore[call-arg]


def test_result_with_a_timeout_leaves_the_task_alone(farm: Farm, meeting: Meeting) -> None:
    future = farm.submit(arrive, meeting.place, "late")
    visitor = meeting.wait()
    with pytest.raises(TimeoutError):
        future.result(timeout=0.001)
    visitor.release()
    assert future.result(PATIENCE_S) == "late"


def test_wait_and_as_completed(farm: Farm, meeting: Meeting) -> None:
    slow = farm.submit(arrive, meeting.place, "slow")
    visitor = meeting.wait()
    quick = [farm.submit(add, i) for i in range(20)]
    done, waiting = cf.wait([slow, *quick], PATIENCE_S, return_when=cf.FIRST_COMPLETED)
    assert done
    assert slow in waiting
    assert {f.result() for f in cf.as_completed(quick, PATIENCE_S)} == set(range(20))
    bad = farm.submit(fail, "x")
    done, _ = cf.wait([slow, bad], PATIENCE_S, return_when=cf.FIRST_EXCEPTION)
    assert done == {bad}
    visitor.release()
    assert cf.wait([slow, bad, *quick], PATIENCE_S).not_done == set()
    assert next(cf.as_completed([slow])) is slow


def test_callbacks_run_once_in_order_also_when_added_late(farm: Farm) -> None:
    seen: list[int] = []
    both = threading.Event()
    future = farm.submit(add, 1)
    future.add_done_callback(lambda f: seen.append(f.result()))
    future.add_done_callback(lambda _: both.set())
    assert both.wait(PATIENCE_S)
    future.add_done_callback(lambda f: seen.append(f.result() + 1))
    assert seen == [1, 2]


def test_a_callback_may_submit_and_one_that_raises_harms_nobody(farm: Farm, caplog: pytest.LogCaptureFixture) -> None:
    chained: Future[int] = Future()

    def on_done(first: Future[int]) -> None:
        farm.submit(add, first.result(), 1).add_done_callback(lambda f: chained.set_result(f.result()))

    def on_fire(_: Future[int]) -> None:
        raise RuntimeError("callback on fire")

    future = farm.submit(add, 1)
    future.add_done_callback(on_fire)
    future.add_done_callback(on_done)
    assert chained.result(PATIENCE_S) == 2
    assert "callback on fire" in caplog.text
    assert farm.submit(add, 5).result(PATIENCE_S) == 5


def test_running_becomes_true_and_then_cancel_is_false(farm: Farm, meeting: Meeting) -> None:
    future = farm.submit(arrive, meeting.place, 1)
    visitor = meeting.wait()
    wait_running(future)
    assert future.running()
    assert not future.cancel()
    assert not future.cancelled()
    visitor.release()
    assert future.result(PATIENCE_S) == 1
    assert not future.running()
    assert not future.cancel()


def wait_running(future: Future[object]) -> None:
    """Return when a node has said that the task runs; the farm's own loop sets that, 2 ms after the start."""
    deadline = threading.Event()
    timer = threading.Timer(PATIENCE_S, deadline.set)
    timer.start()
    while not future.running():
        assert not deadline.is_set(), "the task never became running"
        assert not future.done()
        os.sched_yield()
    timer.cancel()


def test_cancel_before_the_start_means_that_it_never_runs(farm: Farm, meeting: Meeting, tally: Tally) -> None:
    blockers = [farm.submit(arrive, meeting.place) for _ in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    waiting = [farm.submit(tally.add) for _ in range(500)]
    called: list[bool] = []
    waiting[0].add_done_callback(lambda f: called.append(f.cancelled()))
    assert all(future.cancel() for future in waiting)
    assert all(future.cancel() for future in waiting), "cancelling again says the same"
    assert called == [True]
    with pytest.raises(cf.CancelledError):
        waiting[5].result(PATIENCE_S)
    assert all(f.cancelled() and f.done() and not f.running() for f in waiting)
    assert cf.wait(waiting, PATIENCE_S).not_done == set()
    for visitor in visitors:
        visitor.release()
    cf.wait(blockers, PATIENCE_S)
    # The order to drop what a node had in hand races with the end of the blockers; nothing else may have run.
    assert farm.submit(tally.add).result(PATIENCE_S) <= 1 + 2 * limits.BATCHES_PER_SLOT


def test_shutdown_waits_for_what_was_submitted(tally: Tally) -> None:
    farm = Farm(max_workers=2, output=False)
    futures = [farm.submit(tally.add) for _ in range(50)]
    farm.shutdown()
    assert all(f.done() and not f.cancelled() for f in futures)
    assert tally.count == 50
    with pytest.raises(RuntimeError, match="after shutdown"):
        farm.submit(add, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        farm.map(add, [1])
    farm.shutdown()
    farm.shutdown(wait=False)


def test_shutdown_without_waiting_finishes_in_the_background(tally: Tally, meeting: Meeting) -> None:
    farm = Farm(max_workers=1, output=False)
    first = farm.submit(arrive, meeting.place, "first")
    rest = [farm.submit(tally.add) for _ in range(10)]
    visitor = meeting.wait()
    farm.shutdown(wait=False)
    with pytest.raises(RuntimeError):
        farm.submit(add, 1)
    assert not first.done()
    visitor.release()
    assert first.result(PATIENCE_S) == "first"
    assert sorted(f.result(PATIENCE_S) for f in rest) == list(range(1, 11))
    farm.shutdown(wait=True)


def test_shutdown_with_cancel_futures(tally: Tally, meeting: Meeting) -> None:
    farm = Farm(max_workers=1, output=False)
    running = farm.submit(arrive, meeting.place, "ran")
    visitor = meeting.wait()
    wait_running(running)
    waiting = [farm.submit(tally.add) for _ in range(30)]
    farm.shutdown(wait=False, cancel_futures=True)
    assert all(f.cancelled() for f in waiting)
    visitor.release()
    assert running.result(PATIENCE_S) == "ran"
    farm.shutdown()
    assert tally.count == 0


def test_a_dropped_farm_still_runs_what_was_submitted(tally: Tally) -> None:
    farm = Farm(max_workers=1, output=False)
    futures = [farm.submit(tally.add) for _ in range(20)]
    driver = farm._driver
    del farm  # without a collection of cycles: the last reference is enough
    assert sorted(f.result(PATIENCE_S) for f in futures) == list(range(1, 21))
    driver._thread.join(PATIENCE_S)
    assert not driver._thread.is_alive(), "the session has ended by itself"


@pytest.mark.parametrize("workers", [0, -1])
def test_max_workers_must_be_positive(workers: int) -> None:
    with pytest.raises(ValueError, match="max_workers"):
        Farm(max_workers=workers)


def test_bad_arguments_of_a_farm() -> None:
    with pytest.raises(TypeError):
        Farm(initializer=5)  # type: ignore[arg-type]
    with pytest.raises(errors.BadOption):
        Farm(on_client_loss="maybe")
    with pytest.raises(errors.BadOption, match="nodes"):
        Farm(max_workers=2, nodes=3)
    with pytest.raises(errors.BadAddress):
        Farm("ftp://somewhere")


def test_max_workers_is_the_number_of_slots(farm: Farm, meeting: Meeting) -> None:
    assert farm._max_workers == 2
    futures = [farm.submit(arrive, meeting.place, i) for i in range(3)]
    visitors = [meeting.wait(), meeting.wait()]
    assert len({visitor.pid for visitor in visitors}) == 2
    assert meeting.nobody_came()
    visitors[0].release()
    third = meeting.wait()
    assert third.pid == visitors[0].pid
    visitors[1].release()
    third.release()
    assert [f.result(PATIENCE_S) for f in futures] == [0, 1, 2]


def test_two_nodes_share_the_slots(meeting: Meeting) -> None:
    with Farm(max_workers=2, nodes=2, output=False) as farm:
        futures = [farm.submit(arrive, meeting.place) for _ in range(2)]
        visitors = [meeting.wait(), meeting.wait()]
        nodes = farm.status()["nodes"]
        assert [node["slots"] for node in nodes] == [1, 1]
        assert {node["slot_pids"][0] for node in nodes} == {visitor.pid for visitor in visitors}
        for visitor in visitors:
            visitor.release()
        cf.wait(futures, PATIENCE_S)


def test_pending_work_is_done_when_the_interpreter_ends(script: Script, tally: Tally) -> None:
    script.run(
        """
        import os, sys
        from farmhand import Farm

        def note(path):
            with open(path, "a") as file:
                file.write("x")

        if __name__ == "__main__":
            farm = Farm(max_workers=2)
            for _ in range(40):
                farm.submit(note, sys.argv[1])
        """,
        tally.path,
    )
    assert tally.count == 40
