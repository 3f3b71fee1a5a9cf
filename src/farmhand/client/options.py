"""Options of a submission, checked once and shared by every task that is submitted with them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from farmhand import errors
from farmhand.model import messages
from farmhand.model.environment import Recipe
from farmhand.model.messages import Profile, State
from farmhand.model.named import SessionRequest
from farmhand.model.needs import PROCESS, Lane, Need, parse_need, quantity
from farmhand.model.retry import Retry
from farmhand.model.span import parse_span
from farmhand.model.version import VERSION
from farmhand.security.permissions import check_name


class SessionOptions(msgspec.Struct, frozen=True):
    """A session that outlives its clients, and how it is kept. What is None stays as it is, or has its default.

    name: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`. keep: how long it stays after the last thing that happened in it, in seconds or as
    `"30d"` (7 days). stored_max: bytes that it may store, or `"50GiB"` (4 GiB). result_max: the same for one result (1 GiB).
    create: make it when it is not there.
    """

    name: str
    keep: float | str | None = None
    stored_max: int | str | None = None
    result_max: int | str | None = None
    create: bool = True

    def request(self) -> SessionRequest:
        """What the farm is asked for. Raises `BadOption`."""
        if not isinstance(self.name, str):
            raise errors.BadOption(f"session={self.name!r}: a name, or SessionOptions")
        check_name(self.name)
        keep = None if self.keep is None else parse_span(self.keep)
        return SessionRequest(
            messages.PROTOCOL, VERSION, self.name, self.create, keep, _as_bytes("stored_max", self.stored_max),
            _as_bytes("result_max", self.result_max),
        )  # fmt: skip


def _as_bytes(name: str, value: int | str | None) -> int | None:
    if value is None:
        return None
    amount = quantity(value) if isinstance(value, str) else value
    if type(value) is bool or amount is None or not amount >= 1:
        raise errors.BadOption(f"{name}={value!r}: bytes, or a size such as '2GiB'")
    return int(amount)


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `farm.options(...)` sets. Hashable, so that equal options share groups."""

    lane: Lane
    retry: Retry = Retry()
    timeout: float = 0.0
    name: str = ""
    state: State = State()
    recipe: Recipe | None = None  # of the environment; None: the node's own Python

    def profile(self, code: str, name: str, bundles: tuple[str, ...], base: Profile, environment: str) -> Profile:
        """The profile of a callable under these options. `environment` is the hash of the recipe."""
        return msgspec.structs.replace(base, code=code, name=self.name or name, bundles=bundles, timeout=self.timeout,
                                       memory=self.lane.memory, state=self.state, environment=environment)  # fmt: skip


def as_state(state: Any, session: str) -> State:
    """`state="fresh"`, `"session"` or `"process"` for the calls of a session. Raises `BadOption`."""
    known = {"fresh": State(), "session": State(session, session), "process": State(process=True)}
    if not isinstance(state, str) or state not in known:
        raise errors.BadOption(f"state={state!r}: one of {', '.join(map(repr, known))}")
    return known[state]


def own_lane(
    needs: Iterable[str] = (), priority: Any = 0, recipe: Recipe | None = None, *, process: bool = False
) -> Lane:
    """The lane of Python calls of this interpreter's version with these needs, and a `process` for each call if wanted.

    A recipe that names its Python can be followed by nodes of any version. Raises: `BadNeed`, `BadOption`.
    """
    if isinstance(needs, str):
        raise errors.BadOption(f"needs={needs!r}: write a list, for example needs=[{needs!r}]")
    if type(priority) is not int or not -100 <= priority <= 100:
        raise errors.BadOption(f"priority={priority!r}: a whole number from -100 to 100; higher runs first")
    python = "" if recipe is not None and recipe.python else f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = {_parse(need) for need in needs} | ({Need(PROCESS)} if process or recipe is not None else set())
    return Lane(tuple(sorted(wanted)), python, priority)


def _parse(need: object) -> Need:
    if not isinstance(need, str):
        raise errors.BadNeed(f"{need!r} is not a need; write for example 'cpus=2'")
    return parse_need(need)


def as_retry(retries: Any) -> Retry:
    """`retries=3` or a whole policy. Raises `BadOption`."""
    if isinstance(retries, Retry):
        return retries
    if type(retries) is not int:
        raise errors.BadOption(f"retries={retries!r}: a number or a farmhand.Retry")
    return Retry(max=retries)


def as_timeout(timeout: Any) -> float:
    """Seconds from the start of the run; None for no limit. Raises `BadOption`."""
    if timeout is None:
        return 0.0
    if type(timeout) not in (int, float) or not timeout > 0:
        raise errors.BadOption(f"timeout={timeout!r}: seconds, more than 0, or None")
    return 0.0 if math.isinf(timeout) else float(timeout)


def as_name(name: str) -> str:
    """A name for people. Raises `BadOption`."""
    if not isinstance(name, str):
        raise errors.BadOption(f"name={name!r}: a text")
    return name
