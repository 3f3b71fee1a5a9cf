"""Several farms in a process, many threads on one farm, forks, and a farm at an address."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive

from farmhand import Farm, errors
from farmhand.client.embedded import EmbeddedFarm


def test_two_farms_in_one_process() -> None:
    with Farm(max_workers=1, output=False) as one, Farm(max_workers=1, output=False) as other:
        pairs = [(one.submit(os.getpid), other.submit(os.getpid)) for _ in range(20)]
        pids = {(a.result(PATIENCE_S), b.result(PATIENCE_S)) for a, b in pairs}
        assert len(pids) == 1
        first, second = pids.pop()
        assert first != second
        one.shutdown()
        assert other.submit(abs, -1).result(PATIENCE_S) == 1


def test_farms_opened_in_threads_at_once() -> None:
    def session(n: int) -> int:
        with Farm(max_workers=1, output=False) as farm:
            return sum(farm.map(abs, range(n)))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(session, [10, 20, 30])) == [45, 190, 435]


def test_eight_threads_submit_at_once(farm: Farm) -> None:
    start = threading.Barrier(8)

    def work(number: int) -> list[Any]:
        start.wait(PATIENCE_S)
        futures = [farm.submit(lambda a, b: (a, b), number, i) for i in range(200)]
        mapped = list(farm.map(pow, [number] * 300, range(300)))
        large = [farm.submit(len, bytes(200_000 + number)) for _ in range(5)]
        assert mapped == [number**i for i in range(300)]
        assert [f.result(PATIENCE_S) for f in large] == [200_000 + number] * 5
        return [f.result(PATIENCE_S) for f in futures]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert results == [[(number, i) for i in range(200)] for number in range(8)]


def test_threads_cancel_while_others_submit(farm: Farm) -> None:
    futures: list[Future[Any]] = []
    done = threading.Event()

    def cancel_some() -> int:
        cancelled = seen = 0
        while not done.is_set() or seen < len(futures):
            for future in futures[seen:]:
                seen += 1
                cancelled += seen % 3 == 0 and future.cancel()
        return cancelled

    with ThreadPoolExecutor(2) as pool:
        counting = [pool.submit(cancel_some) for _ in range(2)]
        for i in range(3000):
            futures.append(farm.submit(abs, -i))  # noqa: PERF401 - the other threads see each one at once
        done.set()
        total = sum(f.result(PATIENCE_S) for f in counting)
    outcomes = [f.cancelled() or f.result(PATIENCE_S) == i for i, f in enumerate(futures)]
    assert all(outcomes)
    assert sum(f.cancelled() for f in futures) <= total


def test_submitting_while_another_thread_shuts_down() -> None:
    farm = Farm(max_workers=2, output=False)
    futures: list[Future[Any]] = []
    begun = threading.Event()

    def submit_until_closed() -> str:
        try:
            while True:
                futures.append(farm.submit(abs, -1))
                begun.set()
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(submit_until_closed)
        assert begun.wait(PATIENCE_S)
        farm.shutdown()
        assert ending.result(PATIENCE_S)
    for future in futures:
        assert future.exception(PATIENCE_S) is None or isinstance(future.exception(), BrokenExecutor)


def test_callbacks_in_many_threads(farm: Farm) -> None:
    seen = [threading.Event() for _ in range(400)]
    for event in seen:
        farm.submit(abs, -1).add_done_callback(lambda _, event=event: event.set())  # type: ignore[misc]
    assert all(event.wait(PATIENCE_S) for event in seen)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_told_that_the_farm_is_not_its_own(farm: Farm, meeting: Meeting) -> None:
    pending = farm.submit(arrive, meeting.place)
    visitor = meeting.wait()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        for use in (
            lambda: farm.submit(abs, -1),
            lambda: farm.map(abs, [1]),
            farm.status,
            lambda: pending.result(PATIENCE_S),
        ):
            try:
                use()
                said.append("nothing")
            except Exception as error:  # noqa: BLE001 - what it is, is looked at
                said.append(f"{isinstance(error, BrokenExecutor)} {'forked' in str(error)}")
        farm.shutdown()
        os.write(writer, "\n".join(said).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read().splitlines() == ["True True"] * 4
    os.waitpid(child, 0)
    visitor.release()
    assert pending.exception(PATIENCE_S) is None
    assert farm.submit(abs, -2).result(PATIENCE_S) == 2, "the parent's farm is untouched"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_that_lives_on_does_not_keep_the_farm_alive(script: Script) -> None:
    done = script.run(
        """
        import os, sys
        from farmhand import Farm

        if __name__ == "__main__":
            with Farm(max_workers=1) as farm:
                assert farm.submit(abs, -1).result(30) == 1
                reader, writer = os.pipe()
                child = os.fork()
                if child == 0:
                    os.close(writer)
                    os.read(reader, 1)
                    sys.exit(0)
                os.close(reader)
            print("closed", flush=True)
            os.close(writer)
            os.waitpid(child, 0)
        """
    )
    assert done.stdout == "closed\n"


@pytest.fixture(scope="module")
def standing_farm(nothing_left_behind: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A farm that this user runs on this machine, as `farmhand up` leaves it: its address."""
    embedded = EmbeddedFarm((2,))
    address = embedded.wait_ready().address
    home = Path(os.environ["FARMHAND_HOME"])
    (home / "farm").symlink_to(embedded.folder.root)
    yield address
    (home / "farm").unlink()
    embedded.close()


def test_the_variable_names_the_farm(standing_farm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARMHAND_FARM", standing_farm)
    with Farm(output=False) as farm:
        assert farm._embedded is None
        assert farm.submit(abs, -3).result(PATIENCE_S) == 3
        assert standing_farm.rsplit(":", 1)[1] in repr(farm)
        big = bytes(3_000_000)
        assert farm.submit(bytes.__len__, big).result(PATIENCE_S) == len(big)


def test_an_address_wins_over_the_variable(standing_farm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARMHAND_FARM", "nats://127.0.0.1:1")
    with Farm(standing_farm, output=False) as farm:
        assert farm.submit(abs, -3).result(PATIENCE_S) == 3


def test_max_workers_bounds_what_a_client_keeps_running(standing_farm: str, meeting: Meeting) -> None:
    with Farm(standing_farm, max_workers=1, output=False) as farm:
        futures = [farm.submit(arrive, meeting.place, i) for i in range(3)]
        for i in range(3):
            visitor = meeting.wait()
            assert visitor.word == i
            assert meeting.nobody_came()
            assert len(farm._driver.core.batches) == 1
            visitor.release()
        assert [f.result(PATIENCE_S) for f in futures] == [0, 1, 2]


def test_two_clients_on_one_farm(standing_farm: str, meeting: Meeting) -> None:
    with Farm(standing_farm, output=False) as one, Farm(standing_farm, output=False) as other:
        crowd = [one.submit(time.sleep, 0.001) for _ in range(2000)]
        assert list(other.map(abs, range(10), timeout=PATIENCE_S)) == list(range(10))
        assert not all(f.done() for f in crowd), "ten tasks did not wait behind two thousand"
        for future in crowd:
            future.cancel()


def test_a_client_that_leaves_takes_only_its_own_work_along(standing_farm: str, meeting: Meeting) -> None:
    with Farm(standing_farm, output=False) as stays:
        kept = stays.submit(arrive, meeting.place, "kept")
        visitor = meeting.wait()
        with Farm(standing_farm, output=False) as leaves:
            assert leaves.submit(abs, -1).result(PATIENCE_S) == 1
        visitor.release()
        assert kept.result(PATIENCE_S) == "kept"


def test_nobody_there_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.CredentialMissing):
        Farm("nats://127.0.0.1:1")
    before = threading.active_count()
    key = Path(os.environ["FARMHAND_HOME"]) / "known" / "127.0.0.1_1" / "client-me.nk"
    from farmhand.security.nkeys import KeyPair, store_seed

    key.parent.mkdir(parents=True, mode=0o700)
    store_seed(key, KeyPair.generate(), durable=False)
    began = time.monotonic()
    with pytest.raises(errors.EngineUnreachable):
        Farm("nats://127.0.0.1:1")
    assert time.monotonic() - began < 30
    assert threading.active_count() <= before
    assert sys.exc_info() == (None, None, None)
