"""What a check is, and the order in which checks are made."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from farmhand import errors
from farmhand.doctor.patient import Patient

CHECK_S: Final = 30.0  # the slowest, a real task, is over in milliseconds or never


class State(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


class Check(msgspec.Struct, frozen=True):
    """One part of a farm. `detail`: what was found, or why it was skipped. `advice`: what to do, when it failed."""

    name: str
    state: State
    detail: str
    advice: str = ""
    seconds: float = 0.0


class Fault(Exception):
    """This part is broken."""

    def __init__(self, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.advice = advice


class Skip(Exception):
    """This part cannot be looked at from here."""


class Step(NamedTuple):
    """A check to be made. `action` returns what it found, or raises `Fault`, `Skip` or any error of ours."""

    name: str
    needs: tuple[str, ...]  # checks that must have succeeded, or been skipped for a reason of their own
    action: Callable[[Patient], Awaitable[str]]
    advice: str  # what to do about an error of ours that it raised


async def examine(
    steps: Sequence[Step], patient: Patient, on_check: Callable[[Check], object] = lambda _: None
) -> list[Check]:
    """Make the checks in their order. `on_check` sees each at once. Never raises for what a part does."""
    done: dict[str, Check] = {}
    broken: set[str] = set()  # failed, or skipped on account of one that failed
    for step in steps:
        cause = next((name for name in step.needs if name in broken), None)
        if cause is None:
            check = await _make(step, patient)
        else:
            check = Check(step.name, State.SKIPPED, f"because of: {_root(cause, done)}")
        if check.state is State.FAILED or cause is not None:
            broken.add(step.name)
        done[step.name] = check
        on_check(check)
    return list(done.values())


def _root(cause: str, done: dict[str, Check]) -> str:
    """The check that failed in the first place."""
    return done[cause].detail.removeprefix("because of: ") if done[cause].state is State.SKIPPED else cause


async def _make(step: Step, patient: Patient) -> Check:
    began = time.monotonic()
    state, advice = State.OK, ""
    try:
        detail = await asyncio.wait_for(step.action(patient), CHECK_S)
    except Skip as reason:
        state, detail = State.SKIPPED, str(reason)
    except Fault as fault:
        state, detail, advice = State.FAILED, str(fault), fault.advice
    except TimeoutError as error:
        state, detail, advice = State.FAILED, str(error) or f"no answer within {CHECK_S:g} s", step.advice
    except (errors.FarmhandError, OSError) as error:
        state, detail, advice = State.FAILED, str(error), step.advice
    return Check(step.name, state, detail, advice, round(time.monotonic() - began, 3))
