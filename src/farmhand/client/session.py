"""`Session`: a farm seen through a named session, which goes on when its clients are gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, overload

import msgspec

from farmhand import errors
from farmhand.client import ending
from farmhand.client.farm import Farm
from farmhand.client.futures import FarmFuture
from farmhand.client.link import DriverConfig
from farmhand.client.named import NamedDriver
from farmhand.client.options import SessionOptions
from farmhand.model import limits
from farmhand.model.messages import Profile
from farmhand.model.named import SessionState


class Session(Farm):
    """A `Farm` whose tasks are stored in the engine as they are submitted, and outlive this process.

    It is a sequence of futures too, in the order of the submits of all clients: `session[0]`, `session[-1]`, `len(session)`,
    `for future in session`. `session["name"]` is the task of that name, and `session.named("name")` are all of them.
    Leaving a `with` block waits for what this process has submitted; `detach()` does not. A process that dies, however it
    dies, has detached.

    Raises, beyond what a `Farm` does: `SessionUnknown`; from `submit`: `SessionFull`.
    """

    _driver: NamedDriver

    def _new_driver(self, config: DriverConfig, session: str | SessionOptions | None) -> NamedDriver:
        config.spool = ""  # a file in a machine's memory does not outlive anything
        wanted = session if isinstance(session, SessionOptions) else SessionOptions(session or "")
        return NamedDriver(config, wanted.request())

    def _first_profile(self, profile: Profile) -> Profile:
        return msgspec.structs.replace(profile, local=False, result_max=self._driver.state.result_max)

    # ---- the futures

    def __len__(self) -> int:
        self._driver.catch_up()
        return self._driver.ledger.count

    def __bool__(self) -> bool:
        return True  # an empty session is one

    def __iter__(self) -> Iterator[FarmFuture[Any]]:
        """The futures of the tasks that are there now, in order."""
        return (self[number] for number in range(len(self)))

    @overload
    def __getitem__(self, key: int | str) -> FarmFuture[Any]: ...

    @overload
    def __getitem__(self, key: slice) -> list[FarmFuture[Any]]: ...

    def __getitem__(self, key: int | str | slice) -> FarmFuture[Any] | list[FarmFuture[Any]]:
        """A task by its number, several, or the one of that name. Raises `IndexError`, `KeyError`."""
        driver = self._driver
        if isinstance(key, slice):
            return [self[number] for number in range(*key.indices(len(self)))]
        if isinstance(key, str):
            driver.catch_up()
            places = driver.ledger.named(key)
            if len(places) != 1:
                raise KeyError(f"{len(places)} tasks of session {self.name!r} are named {key!r}")
            return driver.future_at(places[0])
        if key < 0:
            key += len(self)
        elif key >= driver.ledger.count:  # it may be one that was only just submitted
            driver.catch_up()
        return driver.future_at(driver.ledger.place(key))

    def named(self, name: str) -> list[FarmFuture[Any]]:
        """The tasks of a name, that of `options(name=)` or of their function, in order."""
        self._driver.catch_up()
        return [self._driver.future_at(place) for place in self._driver.ledger.named(name)]

    # ---- the session

    @property
    def name(self) -> str:
        """What it was opened with."""
        return self._driver.wanted.name

    @property
    def state(self) -> SessionState:
        """How many tasks it has and how they stand, as far as its caretaker has said; at most half a second old."""
        return self._driver.state

    def detach(self) -> None:
        """Leave the session to itself: everything that was submitted is stored when this returns.

        Futures without an outcome end with `FarmClosed`; `attach` gives others for the same tasks.
        Raises: `StoreFailed` when the engine has not stored everything within DETACH_S.
        """
        self._closed = True
        ending.opened.discard(self)
        self._driver.flush(limits.DETACH_S)
        unstored = self._driver.unstored
        if self._finalizer.detach() is not None:
            self._driver.close()
        if unstored:
            raise errors.StoreFailed(
                f"{unstored} tasks of session {self.name!r} were not stored: the engine is away or full"
            )

    def _end(self) -> None:
        self.detach()

    def __repr__(self) -> str:
        where = self._driver.connection.options.address
        return f"<Session {self.name!r} at {where} with {len(self)} tasks{' closed' if self._closed else ''}>"
