"""Where a connection tries next, and when it is told that a server has come or gone."""

from __future__ import annotations

from farmhand.engine.servers import REMEMBERED_MAX, Servers
from farmhand.model.address import parse_address

FIRST, SECOND, THIRD = (parse_address(f"tls://10.0.0.{n}:4222") for n in (1, 2, 3))


def urls(*last: int) -> dict[str, object]:
    return {"connect_urls": [f"10.0.0.{n}:4222" for n in last]}


def test_one_server_is_tried_again_and_again() -> None:
    servers = Servers(FIRST)
    assert not servers.learn({}, follow=True)
    assert not servers.many
    assert servers.tries() == [FIRST]


def test_the_others_are_learnt_and_tried_before_the_one_that_was_lost() -> None:
    servers = Servers(FIRST)
    assert not servers.learn(urls(1, 2, 3), follow=True), "the first word is no change"
    assert servers.many
    servers.now = SECOND
    for _ in range(20):
        assert servers.tries()[-1] == SECOND
        assert set(servers.tries()) == {FIRST, SECOND, THIRD}


def test_who_was_there_a_moment_ago_is_tried_first() -> None:
    servers = Servers(FIRST)
    servers.learn(urls(1, 2, 3), follow=True)
    assert servers.learn(urls(1, 3), follow=True), "one has gone"
    assert servers.tries() == [THIRD, SECOND, FIRST]
    assert servers.learn(urls(1, 2, 3), follow=True), "it is back"
    assert not servers.learn(urls(3, 2, 1), follow=True)


def test_who_belongs_to_one_server_hears_of_the_others_and_goes_to_none() -> None:
    servers = Servers(FIRST)
    servers.learn(urls(1, 2, 3), follow=False)
    assert servers.many
    assert servers.tries() == [FIRST]
    assert servers.learn(urls(1, 2), follow=False)


def test_what_is_remembered_is_bounded_and_nonsense_is_left_out() -> None:
    servers = Servers(FIRST, [SECOND])
    assert servers.tries() == [SECOND, FIRST]
    servers.learn({"connect_urls": ["", "10.0.0.9:port", *(f"10.0.1.{n}:1" for n in range(50))]}, follow=True)
    assert len(servers.known) == REMEMBERED_MAX
    assert servers.known[0] == FIRST
    assert not Servers(FIRST).learn({"connect_urls": "no list"}, follow=True)
