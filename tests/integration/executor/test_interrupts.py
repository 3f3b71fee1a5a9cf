"""Ctrl-C, SIGTERM and sudden deaths: nothing hangs, nothing stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from tests.integration.executor.conftest import ROOT, Script, processes_with, wait_all_gone
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.executor.tally import Tally

from farmhand import Farm

CLIENT = """
import sys
sys.path.append({root!r})
from farmhand import Farm
from tests.integration.executor.meeting import arrive, knock

def task(place):
    return arrive(place, "task")

def note(path):
    with open(path, "a") as file:
        file.write("x")

def submit_and_run(farm):
    future = farm.submit(task, PLACE)
    while not future.running():
        pass
    return future

PLACE, TALLY = ("127.0.0.1", int(sys.argv[1])), sys.argv[2]
if __name__ == "__main__":
    {body}
"""
BODIES = {
    "result in with": """
    with Farm(max_workers=1) as farm:
        future = submit_and_run(farm)
        waiting = [farm.submit(note, TALLY) for _ in range(100)]
        print("submitted")
        future.result()
    """,
    "map in with": """
    with Farm(max_workers=1) as farm:
        for _ in farm.map(task, [PLACE] * 50):
            pass
    """,
    "lazy map in with": """
    with Farm(max_workers=1) as farm:
        for _ in farm.map(task, iter([PLACE] * 50)):
            pass
    """,
    "result without with": """
    farm = Farm(max_workers=1)
    future = submit_and_run(farm)
    waiting = [farm.submit(note, TALLY) for _ in range(100)]
    print("submitted")
    future.result()
    """,
    "leaving the with": """
    with Farm(max_workers=1) as farm:
        future = submit_and_run(farm)
        waiting = [farm.submit(note, TALLY) for _ in range(100)]
        print("submitted")
    """,
    "as_completed": """
    import concurrent.futures
    with Farm(max_workers=1) as farm:
        for future in concurrent.futures.as_completed([farm.submit(task, PLACE)]):
            pass
    """,
}


def start(script: Script, body: str, meeting: Meeting, tally: Tally) -> subprocess.Popen[str]:
    text = CLIENT.format(root=str(ROOT), body=body.strip())
    return script.start(text, str(meeting.place[1]), tally.path)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_ctrl_c_ends_a_client_at_once(script: Script, meeting: Meeting, tally: Tally, body: str) -> None:
    client = start(script, body, meeting, tally)
    visitor = meeting.wait()
    if "waiting" in body:
        assert client.stdout is not None
        assert client.stdout.readline() == "submitted\n"
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=PATIENCE_S)
    assert client.returncode in (-signal.SIGINT, 1), err
    assert err.rstrip().endswith("KeyboardInterrupt"), err
    assert err.count("Traceback") == 1, err
    visitor.wait_gone()
    wait_all_gone(script.mark)
    assert tally.count == 0, "what waited was withdrawn"


def test_a_caught_ctrl_c_leaves_the_farm_usable(script: Script, meeting: Meeting, tally: Tally) -> None:
    body = """
    with Farm(max_workers=2) as farm:
        future = farm.submit(task, PLACE)
        try:
            future.result()
        except KeyboardInterrupt:
            assert farm.submit(abs, -5).result() == 5
            assert future.kill()
            print("good")
    """
    client = start(script, body, meeting, tally)
    visitor = meeting.wait()
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=PATIENCE_S)
    assert (client.returncode, out) == (0, "good\n"), err
    visitor.wait_gone()
    wait_all_gone(script.mark)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_client_that_is_killed_takes_its_embedded_farm_along(
    script: Script, meeting: Meeting, tally: Tally, how: signal.Signals
) -> None:
    body = """
    farm = Farm(max_workers=2)
    def family(place):
        import subprocess
        code = f"import sys; sys.path[:] = {sys.path!r}; from tests.integration.executor.meeting import arrive; arrive({place!r})"
        subprocess.Popen([sys.executable, "-c", code])
        subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        arrive(place)
    farm.submit(family, PLACE).result()
    """
    client = start(script, body, meeting, tally)
    visitors = [meeting.wait() for _ in range(3)]
    assert len(processes_with(script.mark)) >= 7
    client.send_signal(how)
    client.communicate(timeout=PATIENCE_S)
    for visitor in visitors:
        visitor.wait_gone()
    wait_all_gone(script.mark)


def test_what_tasks_left_running_ends_with_the_farm(script: Script, meeting: Meeting, tally: Tally) -> None:
    body = """
    def leave(place):
        import subprocess
        code = f"import sys; sys.path[:] = {sys.path!r}; from tests.integration.executor.meeting import arrive; arrive({place!r})"
        subprocess.Popen([sys.executable, "-c", code])
        subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        return arrive.__name__  # so that its module is there
    with Farm(max_workers=2) as farm:
        farm.submit(leave, PLACE).result()
        farm.submit(task, PLACE).result()
    """
    client = start(script, body, meeting, tally)
    visitors = [meeting.wait() for _ in range(3)]
    next(v for v in visitors if v.word == "task").release()
    _, err = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 0, err
    for visitor in visitors:
        visitor.wait_gone()
    wait_all_gone(script.mark)


@pytest.fixture
def two_nodes() -> Iterator[Farm]:
    with Farm(max_workers=2, nodes=2, output=False) as farm:
        yield farm


def test_a_node_that_is_told_to_end_finishes_what_it_runs(two_nodes: Farm, meeting: Meeting, tally: Tally) -> None:
    futures = [two_nodes.submit(arrive, meeting.place, i) for i in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    rest = [two_nodes.submit(tally.add) for _ in range(40)]
    agent = psutil.Process(visitors[0].pid).parent()
    assert agent is not None
    agent.send_signal(signal.SIGTERM)
    visitors[1].release()
    assert sorted(f.result(PATIENCE_S) for f in rest) == list(range(1, 41)), "handed back, and done by the other node"
    visitors[0].release()
    assert sorted(f.result(PATIENCE_S) for f in futures) == [0, 1]
    assert tally.count == 40


def test_a_node_that_is_killed_costs_nobody_his_task(two_nodes: Farm, meeting: Meeting) -> None:
    future = two_nodes.submit(arrive, meeting.place, "kept")
    visitor = meeting.wait()
    agent = psutil.Process(visitor.pid).parent()
    assert agent is not None
    agent.kill()
    visitor.wait_gone()
    again = meeting.wait()
    again.release()
    assert future.result(PATIENCE_S) == "kept"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt what others leave")
def test_a_node_that_is_killed_leaves_no_process_of_its_tasks(two_nodes: Farm, meeting: Meeting) -> None:
    place = meeting.place

    def family() -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {arrive.__module__} import arrive; arrive({place!r}, 'child')"
        subprocess.Popen([sys.executable, "-c", code])
        arrive(place, "task")

    future = two_nodes.submit(family)
    visitors = [meeting.wait(), meeting.wait()]
    task = next(v for v in visitors if v.word == "task")
    agent = psutil.Process(task.pid).parent()
    assert agent is not None
    agent.kill()
    for visitor in visitors:
        visitor.wait_gone()
    again = [meeting.wait(), meeting.wait()]
    next(v for v in again if v.word == "task").release()
    assert future.result(PATIENCE_S) is None
