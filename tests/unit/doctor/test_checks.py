from __future__ import annotations

import asyncio

from farmhand import errors
from farmhand.doctor import Check, State, Step, examine
from farmhand.doctor.checks import Fault, Skip
from farmhand.doctor.patient import Patient


async def well(_patient: Patient) -> str:
    return "fine"


async def broken(_patient: Patient) -> str:
    raise Fault("it is broken", "mend it")


async def elsewhere(_patient: Patient) -> str:
    raise Skip("not from here")


async def unreachable(_patient: Patient) -> str:
    raise errors.EngineUnreachable("nobody")


def made(*steps: Step) -> dict[str, Check]:
    return {check.name: check for check in asyncio.run(examine(steps, Patient()))}


def test_what_stands_on_a_failed_part_is_skipped_and_names_the_first_cause() -> None:
    found = made(
        Step("a", (), broken, ""), Step("b", ("a",), well, ""), Step("c", ("b",), well, ""), Step("d", (), well, "")
    )
    assert (found["a"].state, found["a"].detail, found["a"].advice) == (State.FAILED, "it is broken", "mend it")
    assert (found["b"].state, found["b"].detail) == (State.SKIPPED, "because of: a")
    assert (found["c"].state, found["c"].detail) == (State.SKIPPED, "because of: a")
    assert found["d"].state is State.OK


def test_a_part_that_cannot_be_seen_from_here_keeps_nothing_from_being_checked() -> None:
    found = made(Step("a", (), elsewhere, ""), Step("b", ("a",), well, ""))
    assert (found["a"].state, found["a"].detail) == (State.SKIPPED, "not from here")
    assert found["b"].state is State.OK


def test_an_error_of_ours_is_a_finding_with_the_advice_of_its_step() -> None:
    found = made(Step("a", (), unreachable, "start it"))
    assert (found["a"].state, found["a"].detail, found["a"].advice) == (State.FAILED, "nobody", "start it")


def test_each_check_is_seen_at_once() -> None:
    seen: list[str] = []
    asyncio.run(
        examine([Step("a", (), well, ""), Step("b", (), broken, "")], Patient(), lambda check: seen.append(check.name))
    )
    assert seen == ["a", "b"]
