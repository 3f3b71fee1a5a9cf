from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.integration.environments.packages import Source, wheel

from farmhand import errors
from farmhand.home.lock import Holder, Lock
from farmhand.model import limits
from farmhand.model.environment import Recipe
from farmhand.node import uv
from farmhand.node.venvs import Place, Venvs, kept_environments, own_requirements

DAY = 24 * 3600.0


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_NO_CACHE", "1")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache of a node"


@pytest.fixture
def agents(cache: Path) -> Iterator[list[Venvs]]:
    """Two agents of one machine."""
    agents = [Venvs(cache, "one"), Venvs(cache, "two")]
    yield agents
    for agent in agents:
        agent.close()


def barley(tmp_path: Path, version: str = "1.0") -> Recipe:
    return Recipe(requirements=(wheel(tmp_path / "stock", "barley", "KIND = 1", version),))


def whole(cache: Path, number: int, age: float, size: int = 1000) -> Path:
    """An environment as a build leaves it, without what is in it."""
    folder = cache / "envs" / f"{number:024x}"
    folder.mkdir(parents=True)
    stamp = folder / "farmhand.json"
    stamp.write_bytes(msgspec.json.encode({"recipe": {}, "size": size, "seconds": 0.1}))
    os.utime(stamp, (time.time() - age, time.time() - age))
    return folder


def left(cache: Path) -> set[int]:
    return {int(path.name, 16) for path in (cache / "envs").iterdir() if len(path.name) == 24}


def test_two_agents_and_many_callers_build_once(tmp_path: Path, agents: list[Venvs]) -> None:
    source = Source(tmp_path / "source", "barley", "KIND = 1")
    recipe = Recipe(requirements=(source.requirement,))

    async def ask() -> list[Place]:
        return await asyncio.gather(*(agent.place(recipe) for agent in agents for _ in range(20)))

    places = asyncio.run(ask())
    assert len(set(places)) == 1
    assert sum(agent.builds for agent in agents) == source.builds == 1
    said = subprocess.run(
        [places[0].python, "-c", "import barley; print(barley.KIND)"], capture_output=True, check=True
    )
    assert said.stdout.split() == [b"1"]


def test_half_an_environment_is_built_anew(tmp_path: Path, cache: Path, agents: list[Venvs]) -> None:
    recipe = barley(tmp_path)
    half = cache / "envs" / agents[0].key(recipe)
    (half / "bin").mkdir(parents=True)
    (half / "bin" / "python").symlink_to(sys.executable)
    place = asyncio.run(agents[0].place(recipe))
    assert place.folder == half
    assert agents[0].builds == 1
    assert (half / "farmhand.json").exists()
    place.python.unlink()
    place.python.symlink_to(tmp_path / "a Python that is gone")
    asyncio.run(agents[1].place(recipe))
    assert agents[1].builds == 1
    assert place.python.exists()


def test_a_failure_is_remembered_for_a_while(
    tmp_path: Path, cache: Path, agents: list[Venvs], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(tmp_path / "source", "barley", problem="no barley in stock")
    recipe = Recipe(requirements=(source.requirement,))

    async def fail() -> None:
        with pytest.raises(errors.EnvironmentFailed, match="no barley in stock"):
            await agents[0].place(recipe)

    async def ask() -> None:
        await asyncio.gather(*(fail() for _ in range(50)))
        await fail()

    asyncio.run(ask())
    assert source.builds == 1
    assert left(cache) == set()
    monkeypatch.setattr("time.monotonic", lambda now=time.monotonic: now() + limits.ENVIRONMENT_FAILED_S)
    asyncio.run(fail())
    assert source.builds == 2


def test_what_hangs_is_stopped(tmp_path: Path, agents: list[Venvs], monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(limits, "ENVIRONMENT_BUILD_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = Source(tmp_path / "source", "barley", place=server.getsockname())
        with pytest.raises(errors.EnvironmentFailed, match=r"stopped on node one after 0\.5 s"):
            asyncio.run(agents[0].place(Recipe(requirements=(source.requirement,))))


def test_who_asks_no_more_stops_nothing(tmp_path: Path, agents: list[Venvs]) -> None:
    recipe = barley(tmp_path)

    async def ask() -> Place:
        first = asyncio.ensure_future(agents[0].place(recipe))
        second = asyncio.ensure_future(agents[0].place(recipe))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(ask()).python.exists()
    assert agents[0].builds == 1


# ---- collecting


def placed(agent: Venvs, recipe: Recipe) -> Place:
    """An environment, when all is done that its building caused."""

    async def ask() -> Place:
        place = await agent.place(recipe)
        assert agent._collecting is not None
        await agent._collecting
        return place

    return asyncio.run(ask())


def collect(agent: Venvs) -> None:
    asyncio.run(agent.collect())


def test_the_old_go(cache: Path, agents: list[Venvs]) -> None:
    for number, days in enumerate((1, 29, 31, 400)):
        whole(cache, number, days * DAY)
    collect(agents[0])
    assert left(cache) == {0, 1}


def test_what_there_is_can_be_told(cache: Path) -> None:
    assert kept_environments(cache) == (0, 0)
    whole(cache, 1, 0.0, 500)
    whole(cache, 2, 0.0, 700)
    (cache / "envs" / "locks").mkdir()
    assert kept_environments(cache) == (2, 1200)


def test_too_many_go_by_their_last_use(cache: Path, agents: list[Venvs], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENVIRONMENTS_MAX", 2)
    for number, age in enumerate((50.0, 10.0, 30.0, 20.0)):
        whole(cache, number, age)
    collect(agents[0])
    assert left(cache) == {1, 3}


def test_too_large_go(cache: Path, agents: list[Venvs], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENVIRONMENTS_BYTES_MAX", 2500)
    for number, size in enumerate((1000, 2000, 1000)):
        whole(cache, number, 10.0 * number, size)
    collect(agents[0])
    assert left(cache) == {0, 2}, "one that is too large makes room for older ones that are not"


def test_what_is_used_stays_here_and_at_the_neighbours(
    tmp_path: Path, cache: Path, agents: list[Venvs], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = placed(agents[0], barley(tmp_path))
    unused = placed(agents[0], barley(tmp_path, "2.0"))
    agents[0].release({used.key})
    monkeypatch.setattr(limits, "ENVIRONMENTS_MAX", 0)
    collect(agents[1])
    assert used.python.exists()
    assert not unused.folder.exists()
    collect(agents[0])
    assert used.python.exists()
    agents[0].release(set())
    collect(agents[1])
    assert not used.folder.exists()


def test_what_is_being_built_stays(cache: Path, agents: list[Venvs], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = whole(cache, 0, 400 * DAY)
    with Lock(cache / "envs" / "locks" / folder.name[:2], Holder(os.getpid())):
        collect(agents[0])
        assert folder.exists()
    collect(agents[0])
    assert not folder.exists()


def test_a_killed_agents_mark_is_no_use(cache: Path, agents: list[Venvs]) -> None:
    folder = whole(cache, 0, 400 * DAY)
    mark = folder.with_name(f"{folder.name}.1-dead.use")
    mark.write_text("{}")
    collect(agents[0])
    assert not folder.exists()
    assert not mark.exists()


# ---- uv


def test_uv_is_found_beside_the_interpreter_on_path_or_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = uv.find_uv()
    assert Path(real).exists()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / Path(real).name).symlink_to(real)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert Path(uv.find_uv()).parent == tmp_path / "bin"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.EnvironmentFailed, match="no uv on this node"):
        uv.find_uv()


def test_what_pip_is_told_is_for_uv_unless_uv_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "file:///pip")
    monkeypatch.setenv("VIRTUAL_ENV", "/elsewhere")
    assert uv.surroundings()["UV_DEFAULT_INDEX"] == "file:///pip"
    assert "VIRTUAL_ENV" not in uv.surroundings()
    monkeypatch.setenv("UV_INDEX_URL", "file:///uv")
    assert "UV_DEFAULT_INDEX" not in uv.surroundings()


def test_pythons_of_pyenv_are_found_and_its_shims_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("shims", "versions/3.12.1/bin", "versions/3.13.0/bin"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "shims"), "/usr/bin"]))
    found = uv.surroundings()["PATH"].split(os.pathsep)
    assert found == ["/usr/bin", *(str(tmp_path / "versions" / v / "bin") for v in ("3.13.0", "3.12.1"))]


def test_what_a_slot_needs_has_its_limits() -> None:
    assert [line.partition("<")[0].partition(">")[0] for line in sorted(own_requirements())] == [
        "cloudpickle",
        "msgspec",
    ]
