"""Two clients at once: ten tasks of one do not wait behind the other's million."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.farm import PATIENCE_S, Client, FarmProcess
from tests.chaos.work import number

from farmhand import Farm

MILLION = """
with Farm(sys.argv[1], output=False) as farm:
    for count, _ in enumerate(farm.map(number, iter(range(1_000_000)), buffersize=4096)):
        if count == 2000:
            say("going")
    say("through")
"""


def test_ten_tasks_do_not_wait_behind_a_million(home: Path) -> None:
    with FarmProcess(home) as running, Farm(running.file.address) as farm:
        with Client(MILLION, running.file.address) as client:
            assert client.line() == "going"
            assert [farm.submit(number, i).result(PATIENCE_S) for i in range(10)] == list(range(10))
            assert list(farm.map(number, range(10))) == list(range(10))
            others = [s for s in farm.status()["sessions"] if s["session"] != farm.session]
            assert client.process.poll() is None
        assert len(others) == 1
        print(f"the other had {others[0]['done']} of its million tasks done when the ten were through")
        assert others[0]["done"] < 900_000
