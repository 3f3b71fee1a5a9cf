"""How much a named session stores, for how long, and what is left of it when it is removed: nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chaos.farm import FarmProcess, wait_until
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.named.conftest import Open, left_in_engine, remove

from farmhand import Farm, SessionOptions, errors


def double(value: Any) -> Any:
    return value * 2


def test_a_session_stores_so_much_and_no_more(opened: Open, name: str) -> None:
    session = opened(session=SessionOptions(name, stored_max="2MiB"))
    accepted: list[Any] = []

    def full() -> bool:
        try:
            accepted.append(session.submit(len, bytes(500_000)))
        except errors.SessionFull:
            return True
        return False

    wait_until(full, "it is full")
    assert len(accepted) >= 4
    with pytest.raises(errors.SessionFull, match="may store 2,097,152"):
        session.submit(double, 1)
    assert {future.result(PATIENCE_S) for future in accepted} == {500_000}, "what was accepted runs"
    larger = opened(session=SessionOptions(name, stored_max="200MiB"))
    assert larger.submit(double, 4).result(PATIENCE_S) == 8
    wait_until(lambda: session.state.stored_max == 200 * 2**20, "the other has heard of it")
    assert session.submit(double, 5).result(PATIENCE_S) == 10


@pytest.mark.parametrize("size", [50_000, 5_000_000])
def test_a_result_that_is_too_large_is_a_named_error(opened: Open, name: str, size: int) -> None:
    session = opened(session=SessionOptions(name, result_max=40_000))
    assert session.submit(bytes, 30_000).result(PATIENCE_S) == bytes(30_000)
    with pytest.raises(errors.ResultTooLarge, match="keeps at most 40,000"):
        session.submit(bytes, size).result(PATIENCE_S)
    session.detach()
    assert isinstance(opened()[1].exception(PATIENCE_S), errors.ResultTooLarge)


def test_how_long_it_is_kept_is_changed_by_opening_it_again(opened: Open, name: str) -> None:
    assert opened().state.keep == 7 * 86400
    assert opened(session=SessionOptions(name, keep="30d")).state.keep == 30 * 86400
    assert opened().state.keep == 30 * 86400, "opening it without a word changes nothing"


def test_nobody_used_it_for_as_long_as_it_is_kept(
    opened: Open, running: FarmProcess, meeting: Meeting, name: str
) -> None:
    used = opened(session=SessionOptions(f"{name}-b", keep=3))
    busy = used.submit(arrive, meeting.place, "done")
    visitor = meeting.wait()
    session = opened(session=SessionOptions(name, keep=3))
    assert len(session.submit(double, bytes(2_000_000)).result(PATIENCE_S)) == 4_000_000
    assert session.submit(double, 1).result(PATIENCE_S) == 2
    with Farm(running.file.address) as farm:
        wait_until(lambda: name not in sessions_of(farm), "it is removed")
        wait_until(lambda: not left_in_engine(farm, session.session, name), "the engine has forgotten it")
        with pytest.raises(errors.SessionUnknown):
            farm.attach(name)
        assert used.name in sessions_of(farm), "it has a task that runs"
        assert left_in_engine(farm, used.session, used.name)
        assert not busy.done()
        visitor.release()
        assert busy.result(PATIENCE_S) == "done"
        wait_until(lambda: not left_in_engine(farm, used.session, used.name), "that one too when it has none any more")
    wait_until(lambda: session._driver.broken is not None, "who is attached has heard of it")
    with pytest.raises(errors.SessionUnknown, match="was removed"):
        session.submit(double, 1)


def sessions_of(farm: Farm) -> set[str]:
    return {state["name"] for state in farm._driver.ask("sessions")}


def test_removed_while_it_runs(opened: Open, running: FarmProcess, meeting: Meeting, name: str) -> None:
    session, other = opened(), opened()
    large = session.submit(double, bytes(2_000_000))
    assert len(large.result(PATIENCE_S)) == 4_000_000
    futures = [session.submit(arrive, meeting.place, i) for i in range(2)]
    visitors = [meeting.wait(), meeting.wait()]
    futures += [session.submit(double, i) for i in range(5000)]
    session._driver.flush()
    theirs = other[1]
    with Farm(running.file.address) as farm:
        assert len(left_in_engine(farm, session.session, name)) > 3
        remove(farm, name)
        for future in (*futures, theirs):
            assert isinstance(future.exception(PATIENCE_S), errors.SessionUnknown)
        for attached in (session, other):
            with pytest.raises(errors.SessionUnknown, match="was removed"):
                attached.submit(double, 1)
        for visitor in visitors:
            visitor.wait_gone()
        wait_until(lambda: not left_in_engine(farm, session.session, name), "the engine has forgotten it")
        with pytest.raises(errors.SessionUnknown):
            farm.attach(name)
        with pytest.raises(errors.SessionUnknown):
            farm._driver.ask("session-rm", name.encode())
    anew = opened()
    assert len(anew) == 0
    assert anew.session != session.session
    assert anew.submit(double, 1).result(PATIENCE_S) == 2
    assert len(anew) == 1


def test_sessions_are_apart(opened: Open, running: FarmProcess, name: str) -> None:
    one, two = opened(), opened(session=f"{name}-b")
    assert [one.submit(double, 1).result(PATIENCE_S), two.submit(double, 2).result(PATIENCE_S)] == [2, 4]
    assert (len(one), len(two)) == (1, 1)
    states = {state["name"]: state for state in one._driver.ask("sessions")}
    assert states[name]["session"] == one.session
    wait_until(lambda: (one.state.submitted, one.state.done, one.state.open) == (1, 1, 0), "it says how it stands")
    with Farm(running.file.address) as farm:
        remove(farm, two.name)
    assert one.submit(double, 3).result(PATIENCE_S) == 6


def test_reports_do_not_pile_up(opened: Open, running: FarmProcess) -> None:
    session = opened()
    assert sum(session.map(double, range(3000))) == 3000 * 2999
    with Farm(running.file.address) as farm:
        wait_until(
            lambda: all(not s.startswith(("res.", "work.")) for s in left_in_engine(farm, session.session)),
            "what is in records is not kept twice",
        )
