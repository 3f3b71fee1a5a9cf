"""Three servers: kill -9 of any one under work loses nothing, one steward acts at a time, and two dead ones only make it wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.chaos import cable
from tests.chaos.cable import BOTH_WAYS, Cable
from tests.chaos.cluster import Cluster, Server, Site
from tests.chaos.farm import PATIENCE_S, frozen, hold, wait_until
from tests.chaos.history import Effects, History
from tests.chaos.work import effect, number

from farmhand import Farm, errors
from farmhand.engine import streams, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.stored import Publisher

TASKS = 20_000


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    began = time.monotonic()
    with Cluster(tmp_path_factory.mktemp("a cluster")) as cluster:
        print(f"whole after {time.monotonic() - began:.1f} s")
        yield cluster


@pytest.fixture
def cluster(three: Cluster) -> Cluster:
    """Whole, whatever a test before did to it."""
    three.mend()
    return three


def server_of(farm: Farm, cluster: Cluster) -> Server:
    return cluster.at(farm._driver.connection.servers.now.port)


class Fences(NamedTuple):
    """What the engine was told before it lost its leaders."""

    old: tuple[str, int]
    new: tuple[str, int]
    stored: int  # sequence of a message with an id
    kept: int  # sequence of the newest message of a subject


async def set_fences(connection: Connection) -> Fences:
    """Use each way in which the engine is asked to refuse, on streams of three copies."""
    publisher = Publisher(connection)
    old = "res.farm.fence", await publisher.store("res.farm.fence", b"1")
    assert await publisher.store("res.s.steward", b"", fence=old)
    new = "res.farm.fence", await publisher.store("res.farm.fence", b"2")
    with pytest.raises(errors.Deposed):
        await publisher.store("res.s.steward", b"", fence=old)
    # Several at once with one fence: the engine lets them through one by one, and the others ask again.
    assert all(await asyncio.gather(*(publisher.store("res.s.steward", b"", fence=new) for _ in range(3))))
    stored = await publisher.store("res.s.node", b"", msg_id="once")
    assert await publisher.store("res.s.node", b"", msg_id="once") == stored
    assert await publisher.store("blob.code.x.0", b"", first=True)
    assert await publisher.store("blob.code.x.0", b"", first=True) == 0
    kept = await streams.replace_last(connection, "keep.test", b"1", after=0)
    assert kept is not None
    assert await streams.replace_last(connection, "keep.test", b"2", after=0) is None
    publisher.close()
    return Fences(old, new, stored, kept)


async def check_fences(connection: Connection, fences: Fences) -> None:
    """They hold under new leaders too."""
    publisher = Publisher(connection)
    with pytest.raises(errors.Deposed):
        await publisher.store("res.s.steward", b"", fence=fences.old)
    assert await publisher.store("res.s.steward", b"", fence=fences.new)
    assert await publisher.store("res.s.node", b"", msg_id="once") == fences.stored
    assert await publisher.store("blob.code.x.0", b"", first=True) == 0
    assert await streams.replace_last(connection, "keep.test", b"2", after=0) is None
    assert await streams.replace_last(connection, "keep.test", b"2", after=fences.kept) is not None
    publisher.close()


@pytest.mark.parametrize("victim", ["the client's", "the one that leads", "another"])
def test_a_server_is_killed_under_work(victim: str, cluster: Cluster, effects: Effects) -> None:
    history, killed = History(), []
    leader = cluster.leader(subjects.WORK)
    entry = leader if victim == "the client's" else next(s for s in cluster.up if s is not leader)
    with Farm(entry.running.file.join_line, output=False) as farm:
        assert farm.submit(number, 1).result(PATIENCE_S) == 1
        own = server_of(farm, cluster)
        if victim == "the client's":
            target = own
        elif victim == "the one that leads":
            target = cluster.leader(subjects.WORK)
        else:
            target = next(s for s in cluster.up if s not in (own, cluster.leader(subjects.WORK)))

        def strike() -> None:
            target.kill()
            killed.append(target)

        history.at(TASKS // 10, strike)
        began = time.monotonic()
        view = farm.options(state="session")  # so that a slot opens its file of traces once
        for i in range(TASKS):
            history.follow(i, view.submit(effect, i, effects.folder, 0.0001))
        ran = history.check(effects)
        wait_until(lambda: killed, "it was killed")
        assert server_of(farm, cluster) is not target
        print(f"{TASKS} tasks in {time.monotonic() - began:.1f} s, {ran.total()} runs, {farm._driver.core.counts}")


def test_a_steward_that_dies_or_freezes_is_replaced_and_acts_no_more(cluster: Cluster) -> None:
    first = cluster.acting()
    line = first.running.file.join_line
    with Farm(line, output=False) as farm, Farm(line, session="kept", output=False) as kept:
        assert farm.submit(number, 1).result(PATIENCE_S) == 1
        # Its tasks are sent and its outcomes are stored by whichever steward acts.
        futures = [kept.submit(number, i) for i in range(300)]
        first.running.one("steward").kill()
        other = next(s for s in cluster.servers if s is not first)
        took = wait_until(lambda: other.state()["acting"] not in ("", first.name), "another one acts")
        print(f"another steward acted {took:.2f} s after the kill")
        second = cluster.acting()
        asked = next(s for s in cluster.servers if s is not second)
        with frozen(second.running.one("steward")):
            began = time.monotonic()
            wait_until(lambda: asked.state()["acting"] not in ("", second.name), "a third one acts")
            print(f"another steward acted {time.monotonic() - began:.2f} s after the freeze")
            third = cluster.acting()
            futures += [kept.submit(number, i) for i in range(300, 600)]
            assert farm.options(priority=3).submit(number, 2).result(PATIENCE_S) == 2  # a new lane needs a steward
        for _ in range(20):
            assert farm.status()["cluster"]["acting"] == third.name
            hold(0.05)
        wait_until(lambda: "acts no longer" in second.running.log("steward.log"), "it knows")
        assert farm.submit(number, 3).result(PATIENCE_S) == 3
        assert [future.result(PATIENCE_S) for future in futures] == list(range(600))
        assert len(kept) == len(futures)


def test_two_servers_down_accept_nothing_and_lose_nothing_and_a_dead_one_is_replaced(cluster: Cluster) -> None:
    back, dead, last = cluster.servers
    with Farm(last.running.file.join_line, output=False) as farm:
        assert farm.submit(number, 1).result(PATIENCE_S) == 1
        fences = last.ask_as_steward(set_fences)
        for server in (back, dead):
            server.kill()
        waiting = [farm.submit(number, i) for i in range(500)]
        wait_until(lambda: not last.state()["quorum"], "it knows that it is alone")
        assert "1 of 3 servers is up" in last.state()["problem"]
        assert not any(future.done() for future in waiting)
        back.start()
        assert [future.result(PATIENCE_S) for future in waiting] == list(range(500))
        last.ask_as_steward(lambda connection: check_fences(connection, fences))
        new = cluster.replace(dead)
        cluster.wait_whole()
        assert {server["name"] for server in last.state()["servers"]} == {back.name, last.name, new.name}
        assert [future.result(PATIENCE_S) for future in [farm.submit(number, i) for i in range(50)]] == list(range(50))
    with pytest.raises(errors.ClusterComplete):
        cluster.join_with(last)
    assert "was replaced while it was away" in dead.start_to_its_end()


@pytest.mark.namespace
@pytest.mark.skipif(not cable.possible(), reason="needs root, ip and iptables")
def test_a_server_whose_steward_acts_is_cut_off_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, effects: Effects
) -> None:
    folder = tmp_path_factory.mktemp("a cluster")
    with Cable() as wire, Cluster(folder, [Site(wire.address)] * 2 + [Site(wire.theirs, wire.prefix)]) as cluster:
        near, _, far = cluster.servers
        while (acting := cluster.acting()) is not far:
            acting.running.one("steward").kill()
            wait_until(lambda gone=acting.name: near.state()["acting"] not in ("", gone), "another one acts")
        line, history, under_way = near.running.file.join_line, History(), threading.Event()
        history.at(200, under_way.set)
        with Farm(line, output=False) as farm, Farm(line, session="kept", output=False) as kept:
            assert server_of(farm, cluster) is not far
            for i in range(1000):
                history.follow(i, (kept if i % 2 else farm).submit(effect, i, effects.folder, 0.002))
            assert under_way.wait(PATIENCE_S)
            before = len(far.running.log("steward.log"))
            with wire.cut(BOTH_WAYS):
                began = time.monotonic()
                wait_until(lambda: near.state()["acting"] not in ("", far.name), "another one acts")
                print(f"another steward acted {time.monotonic() - began:.2f} s after the cut")
                wait_until(lambda: "acts no longer" in far.running.log("steward.log")[before:], "the one cut off knows")
                for i in range(1000, 2000):
                    history.follow(i, (kept if i % 2 else farm).submit(effect, i, effects.folder, 0.002))
                assert history.futures[1500].result(PATIENCE_S) == 1500  # two servers are enough
                assert history.futures[1501].result(PATIENCE_S) == 1501
            wait_until(lambda: all(server["up"] for server in far.state()["servers"]), "it hears the others again")
            ran = history.check(effects)
            print(f"2000 tasks, {ran.total()} runs, {farm._driver.core.counts}")
            # The engine may choose its leaders anew when the cut ends: then another term begins, perhaps that server's.
            assert farm.options(priority=3).submit(number, 2).result(PATIENCE_S) == 2  # a new lane needs a steward
            cluster.check_terms()
            assert len(kept) == 1000
