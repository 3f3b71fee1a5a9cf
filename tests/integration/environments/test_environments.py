"""`env=`: what tasks find installed, how often it is built, and what is said when it cannot be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.environments.errands import (
    count_up,
    die,
    fail,
    has_barley,
    make_function,
    prefix_and_path,
    set_up,
    version,
    weigh,
)
from tests.integration.environments.packages import Source, wheel
from tests.integration.executor.meeting import PATIENCE_S, Meeting

from farmhand import Environment, Farm, errors
from farmhand.node.uv import find_uv, surroundings

BARLEY = "KIND = 'barley'\ndef weigh(n):\n    return 2 * n\n"


@pytest.mark.smoke
def test_tasks_find_what_they_ask_for_and_others_do_not(farm: Farm, tmp_path: Path) -> None:
    view = farm.options(env=[wheel(tmp_path, "barley", BARLEY)])
    assert view.submit(weigh, 21).result(PATIENCE_S) == 42
    assert list(view.map(weigh, range(100))) == [2 * n for n in range(100)]
    prefix, active, first = view.submit(prefix_and_path).result(PATIENCE_S)
    assert prefix == active == str(Path(first).parent)
    assert len(view.submit(bytes, 3_000_000).result(PATIENCE_S)) == view.submit(len, bytes(3_000_000)).result(
        PATIENCE_S
    )
    plain = [farm.submit(has_barley) for _ in range(3)]
    mixed = [view.submit(has_barley) for _ in range(3)]
    assert not any(future.result(PATIENCE_S) for future in plain)
    assert all(future.result(PATIENCE_S) for future in mixed)


def test_all_who_want_it_wait_for_one_build(farm: Farm, tmp_path: Path, meeting: Meeting) -> None:
    source = Source(tmp_path / "source", "barley", BARLEY, place=meeting.place)
    futures = [farm.options(env=[source.requirement], name=f"{n}").submit(weigh, n) for n in range(50)]
    building = meeting.wait()
    assert not farm.options(needs=["cpus=1"]).submit(has_barley).done()
    building.release()
    assert [future.result(PATIENCE_S) for future in futures] == [2 * n for n in range(50)]
    assert meeting.nobody_came()
    assert source.builds == 1


def test_a_failed_build_says_why_once_for_all(farm: Farm, tmp_path: Path) -> None:
    source = Source(tmp_path / "source", "barley", problem="no barley in stock")
    view = farm.options(env=[source.requirement])
    for future in [view.submit(weigh, n) for n in range(200)]:
        error = future.exception(PATIENCE_S)
        assert isinstance(error, errors.EnvironmentFailed)
        assert "no barley in stock" in str(error)
        assert error.node in str(error)
    assert source.builds <= 2, "each of the nodes has tried once at most"
    assert farm.submit(has_barley).result(PATIENCE_S) is False, "the nodes go on"


def test_a_conflict_is_told_in_uvs_words(farm: Farm, tmp_path: Path) -> None:
    oats = wheel(tmp_path / "a", "oats", "", requires=("barley==2.0",))
    view = farm.options(env=[oats, wheel(tmp_path / "b", "barley", BARLEY), "--no-index"])
    error = view.submit(weigh, 1).exception(PATIENCE_S)
    assert isinstance(error, errors.EnvironmentFailed)
    assert "there is no version of barley==2.0" in " ".join(str(error).split())
    assert "network" not in str(error)


def test_a_node_without_network_says_so(farm: Farm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nobody listens there when it is closed
    view = farm.options(env=[f"--index-url http://127.0.0.1:{port}/simple", "barley"])
    error = view.submit(weigh, 1).exception(PATIENCE_S)
    assert isinstance(error, errors.EnvironmentFailed)
    assert "has no network, or none to where uv looks" in str(error)
    assert f"127.0.0.1:{port}" in str(error)


def test_a_requirements_file_is_read_here(farm: Farm, tmp_path: Path) -> None:
    wheel(tmp_path / "stock", "barley", BARLEY)
    wheel(tmp_path / "stock", "barley", "", version="3.0")
    (tmp_path / "base.txt").write_text("--no-index\n--find-links stock  # here\n")
    (tmp_path / "limits.txt").write_text("barley<2\n")
    path = tmp_path / "requirements.txt"
    path.write_text("# what we need\n-r base.txt\n-c limits.txt\n\nbarley \\\n  >=1\n")
    assert farm.options(env=path).submit(weigh, 4).result(PATIENCE_S) == 8
    assert farm.options(env=Environment(requirements=str(path))).submit(weigh, 5).result(PATIENCE_S) == 10


def test_a_farm_with_an_environment_an_initializer_and_state(own_uv: None, tmp_path: Path) -> None:
    env = [wheel(tmp_path, "barley", BARLEY)]
    with Farm(max_workers=1, env=env, initializer=set_up, initargs=(10,)) as farm:
        view = farm.options(state="session")
        assert [view.submit(count_up).result(PATIENCE_S) for _ in range(3)] == [21, 22, 23]
        assert farm.submit(count_up).result(PATIENCE_S) == 21
        assert farm.options(state="process").submit(count_up).result(PATIENCE_S) == 21
        broken = farm.options(env=[]).submit(has_barley).exception(PATIENCE_S)
        assert isinstance(broken, errors.InitializerFailed), "in the node's own Python it has no barley"


def test_a_death_in_an_environment_is_as_any_other(single: Farm, tmp_path: Path) -> None:
    view = single.options(env=[wheel(tmp_path, "barley", BARLEY)])
    error = view.submit(die).exception(PATIENCE_S)
    assert isinstance(error, errors.TaskCrashed)
    assert error.exit_code == 4
    assert view.submit(weigh, 3).result(PATIENCE_S) == 6
    assert single.submit(has_barley).result(PATIENCE_S) is False


def test_an_environment_whose_python_runs_no_slot(single: Farm, tmp_path: Path) -> None:
    view = single.options(env=[wheel(tmp_path, "msgspec", "raise ImportError('gone off')", version="0.20.0")])
    for future in [view.submit(has_barley) for _ in range(5)]:
        error = future.exception(PATIENCE_S)
        assert isinstance(error, errors.EnvironmentFailed)
        assert "does not run a slot" in str(error)
        assert "gone off" in str(error)
    assert single.submit(has_barley).result(PATIENCE_S) is False


def test_a_task_is_killed_while_its_environment_is_built(single: Farm, tmp_path: Path, meeting: Meeting) -> None:
    source = Source(tmp_path / "source", "barley", BARLEY, place=meeting.place)
    view = single.options(env=[source.requirement])
    future = view.submit(weigh, 1)
    building = meeting.wait()
    assert future.kill(PATIENCE_S)
    assert single.submit(has_barley).result(PATIENCE_S) is False, "the slot is free while the build goes on"
    building.release()
    assert view.submit(weigh, 3).result(PATIENCE_S) == 6
    assert source.builds == 1


def test_what_a_killed_agent_began_to_build_is_built_anew(single: Farm, tmp_path: Path, meeting: Meeting) -> None:
    source = Source(tmp_path / "source", "barley", BARLEY, place=meeting.place)
    future = single.options(env=[source.requirement]).submit(weigh, 4)
    first = meeting.wait()
    os.kill(single.status()["nodes"][0]["pid"], signal.SIGKILL)
    first.wait_gone()
    meeting.wait().release()
    assert future.result(PATIENCE_S) == 8
    assert source.builds == 2


def test_a_farm_that_ends_takes_its_builds_along(own_uv: None, tmp_path: Path, meeting: Meeting) -> None:
    source = Source(tmp_path / "source", "barley", place=meeting.place)

    def interrupted() -> None:
        with Farm(max_workers=1, env=[source.requirement]) as farm:
            farm.submit(weigh, 1)
            meeting.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    meeting.visitors[0].wait_gone()


@pytest.mark.parametrize("wrong", ["", "numpy", ["a b"], [5], [""], ["--upgrade"], 7, {"a"}, "3.9", ["a\nb"]], ids=repr)
def test_what_cannot_be_right_is_refused_at_once(farm: Farm, wrong: object) -> None:
    with pytest.raises(errors.BadOption):
        farm.options(env=wrong)  # type: ignore[arg-type]


# ---- another Python


@pytest.fixture(scope="module")
def other() -> str:
    """A version that this interpreter is not, of this machine if it has one."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    versions = [v for v in ("3.13", "3.12", "3.11", "3.14") if v != own]
    look = [find_uv(), "python", "find", "--no-python-downloads"]
    here = (
        v
        for v in versions
        if not subprocess.run([*look, v], env=surroundings(), capture_output=True, check=False).returncode
    )
    return next(here, versions[0])


def test_modules_run_in_another_python(farm: Farm, other: str) -> None:
    view = farm.options(env=other)
    assert view.submit(version).result(60) == tuple(map(int, other.split(".")))
    assert view.submit(sum, [1, 2, 3]).result(PATIENCE_S) == 6
    assert list(view.map(pow, range(50), range(50))) == [n**n for n in range(50)]
    assert farm.submit(version).result(PATIENCE_S) == sys.version_info[:2]


def test_what_another_python_sends_is_readable_here(farm: Farm, other: str) -> None:
    view = farm.options(env=other)
    error = view.submit(make_function).exception(60)
    assert isinstance(error, errors.OtherPython)
    assert "make_function.<locals>.<lambda>" in str(error)
    failed = view.submit(fail).exception(PATIENCE_S)
    assert isinstance(failed, errors.TaskFailed)
    assert "OwnError: of its own kind" in str(failed)


def test_bytecode_for_another_python_is_refused_at_once(farm: Farm, other: str) -> None:
    view = farm.options(env=Environment(python=other))
    for submit in (
        lambda: view.submit(lambda: 1),
        lambda: view.submit(print, lambda: 1),
        lambda: list(view.map(print, [fail, print, lambda: 1])),
    ):
        with pytest.raises(errors.OtherPython, match=other):
            submit()


def test_ones_own_version_by_name_takes_everything(farm: Farm) -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert farm.options(env=own).submit(lambda: 7).result(PATIENCE_S) == 7


def test_a_python_that_is_nowhere_is_told_in_uvs_words(farm: Farm) -> None:
    error = farm.options(env="3.999").submit(version).exception(PATIENCE_S)
    assert isinstance(error, errors.EnvironmentFailed)
    assert "3.999" in str(error)
