"""The engine restarts: clients and nodes carry on by themselves, and what was submitted meanwhile completes."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from tests.chaos.farm import PATIENCE_S, FarmProcess, frozen, hold, node_of, wait_until
from tests.chaos.history import Effects, History
from tests.chaos.meeting import PathMeeting
from tests.chaos.work import effect, number, visit

from farmhand import Farm
from farmhand.model import limits


@pytest.mark.parametrize("how", ["terminated", "killed", "killed and away for 5 s"])
def test_the_engine_restarts_under_work(how: str, home: Path, effects: Effects) -> None:
    history = History()
    with FarmProcess(home, nodes=(1, 1)) as running, Farm(running.file.address) as farm, PathMeeting() as meeting:
        long = farm.submit(visit, meeting.path, "long")
        visitor = meeting.wait()
        agent = node_of(visitor.pid)
        for i in range(2000):
            history.follow(i, farm.submit(effect, i, effects.folder, 0.0002))
        history.futures[100].result(PATIENCE_S)
        engine = running.one("engine")
        began = time.monotonic()
        if how == "terminated":
            engine.terminate()
        elif how == "killed":
            engine.kill()
        else:
            with frozen(running.host):  # nobody is there to start it again
                engine.kill()
                hold(5.0)
        for i in range(2000, 4000):
            history.follow(i, farm.submit(effect, i, effects.folder, 0.0002))
        history.check(effects)
        print(f"{how}: all done {time.monotonic() - began:.2f} s after the engine's end; {farm._driver.core.counts}")
        visitor.release()
        assert long.result(PATIENCE_S) == ("long", visitor.pid), "a long task did not survive the engine's restart"
        assert agent.is_running()
        wait_until(lambda: len(farm.status()["nodes"]) == 2, "both nodes are back")
        assert farm.submit(number, 5).result(PATIENCE_S) == 5


def turned(data: bytes) -> bytes:
    return data[::-1]


@pytest.mark.parametrize("away_s", [0.0, limits.REQUEST_S + 1.0])
def test_the_engine_restarts_while_large_values_travel(away_s: float, home: Path, dice: random.Random) -> None:
    values = [dice.randbytes(16 * limits.MB) for _ in range(12)]
    with FarmProcess(home, nodes=(1, 1)) as running, Farm(running.file.address, shared_memory=False) as farm:
        assert farm.submit(turned, values[0]).result(PATIENCE_S) == values[0][::-1]
        over = threading.Event()

        def strike() -> None:
            for _ in range(1 if away_s else 4):
                if over.wait(dice.uniform(0.1, 1.0)):
                    return
                engine = running.one("engine")
                with frozen(running.host):  # nobody is there to start it again
                    engine.kill()
                    hold(away_s)

        thread = threading.Thread(target=strike)
        thread.start()
        try:
            futures = [farm.submit(turned, value) for value in values]
            assert [
                future.result(PATIENCE_S) == value[::-1] for future, value in zip(futures, values, strict=True)
            ] == [True] * len(values)
        finally:
            over.set()
            thread.join()
        print(f"{farm._driver.core.counts}")


def test_two_farms_at_once_in_a_path_with_blanks(tmp_path: Path) -> None:
    folders = [tmp_path / "my farms" / name for name in ("the first", "the second one")]
    for folder in folders:
        folder.mkdir(parents=True)
    with (
        FarmProcess(folders[0], nodes=(1,)) as one,
        FarmProcess(folders[1], nodes=(1,)) as two,
        Farm(one.file.join_line) as first,
        Farm(two.file.join_line) as second,
        Farm(max_workers=1) as third,
    ):
        results = [farm.map(number, range(500)) for farm in (first, second, third)]
        assert [list(result) for result in results] == [list(range(500))] * 3
        two.one("engine").kill()
        assert list(first.map(number, range(50))) == list(second.map(number, range(50)))
        assert one.file.port != two.file.port
