"""`AntPoolExecutor`: AntPool's constructor on a Farm."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, Final, ParamSpec, TypeVar

from farmhand import errors
from farmhand.client.farm import Farm, FarmView
from farmhand.client.futures import FarmFuture
from farmhand.client.options import TaskOptions, own_lane
from farmhand.model.messages import State
from farmhand.security.accounts import is_token

P = ParamSpec("P")
T = TypeVar("T")

PORT: Final = 8086  # where AntPool's server listens


class AntPoolExecutor(Executor):
    """A `concurrent.futures.Executor` on the farm at `srvurl`.

    srvurl: `ws://`, `wss://`, `tls://` or `nats://` and a port; a join line will do. A plain `host:port` means `ws://`.
    max_workers: how many batches of tasks are under way at most.
    rtype: what a task finds in the globals of its code, kept in each slot for each `user`. 0: nothing of earlier tasks, and what
        it leaves is kept. 1: what was left, which is then forgotten. 2: what was left, and it is kept.
    user, pwd: a credential that this machine has for the address goes first. Without one, `pwd` is the token of the farm's join
        line. `user` names whose globals are shared.

    Raises: `BadOption`, and what `Farm` raises, within 5 s.
    """

    def __init__(
        self,
        srvurl: str = f"ws://127.0.0.1:{PORT}",
        max_workers: int = 8,
        rtype: int = 0,
        user: str = "user",
        pwd: str = "pwd",  # noqa: S107 (as in AntPool; it opens nothing here)
    ) -> None:
        state = state_of(rtype, user)
        self._farm = _open(srvurl, max_workers, pwd)
        self._view = FarmView(self._farm, TaskOptions(lane=own_lane(), state=state))
        self._max_workers = max_workers

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> FarmFuture[T]:
        """See `Farm.submit`."""
        return self._view.submit(fn, *args, **kwargs)

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None,
            chunksize: int = 1) -> Iterator[Any]:  # fmt: skip
        """See `Farm.map`."""
        return self._view.map(fn, *iterables, timeout=timeout, chunksize=chunksize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `Farm.shutdown`."""
        self._farm.shutdown(wait, cancel_futures=cancel_futures)


def state_of(rtype: Any, user: Any) -> State:
    """What AntPool's `rtype` means here. Raises `BadOption`."""
    if not isinstance(user, str):
        raise errors.BadOption(f"user={user!r}: a text")
    kept = f"antpool.{hashlib.sha256(user.encode()).hexdigest()[:16]}"
    known = {0: State("", kept), 1: State(kept, ""), 2: State(kept, kept)}
    if type(rtype) is not int or rtype not in known:
        raise errors.BadOption(f"rtype={rtype!r}: 0, 1 or 2")
    return known[rtype]


def _open(srvurl: str, max_workers: int, pwd: str) -> Farm:
    """The farm, by what this machine knows of it, else by the password. AntPool's own default password is no token."""
    text = srvurl if "://" in srvurl else f"ws://{srvurl}"
    farm = functools.partial(Farm, max_workers=max_workers)
    try:
        return farm(text)
    except errors.CredentialMissing:
        scheme, _, place = text.partition("://")
        if not is_token(pwd):
            raise
        return farm(f"{scheme}://{pwd}@{place}")
