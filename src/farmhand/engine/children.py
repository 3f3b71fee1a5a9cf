"""The session's end of tasks that submit: takes their words from the engine and sends them their children's outcomes.

Whoever drives the session has one. It knows a `core.session.Session` and a connection, and nothing of futures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from farmhand import errors
from farmhand.core import session as sessions
from farmhand.core.family import Child, Families, Taken
from farmhand.engine import subjects
from farmhand.engine.connection import Connection
from farmhand.engine.wire import Msg
from farmhand.model import messages
from farmhand.model.ids import Token
from farmhand.model.needs import Lane
from farmhand.model.nested import Event, NestedAnswer, What, read_nested
from farmhand.model.outcome import BlobRef, Kind

log = logging.getLogger("farmhand.session")


class Driving(Protocol):
    """What drives the session, as seen from here. All is called on its loop."""

    core: sessions.Session
    numbers: Iterator[int]  # of the session's tasks

    def carry_out(self, effects: list[sessions.Effect], body: Any) -> None:
        """Do what the core decided."""

    def need_lane(self, lane: Lane) -> None:
        """Tasks wait for this lane."""

    def pump(self) -> None:
        """Send what there is room for."""

    def code_is_stored(self, hashes: list[str]) -> None:
        """The engine has this code."""

    def forget_blob(self, ref: BlobRef) -> None:
        """A large argument or result of this session is not needed any more."""


class Children:
    """See the head of this file. `lock` guards the core."""

    def __init__(
        self, driver: Driving, connection: Connection, session: str, lock: AbstractContextManager[Any]
    ) -> None:
        self.families = Families(driver.core, driver.numbers)
        self._driver = driver
        self._connection = connection
        self._session = session
        self._lock = lock
        self.close = connection.subscribe(subjects.nested(session, "*"), self._on_message).close

    def _on_message(self, msg: Msg) -> None:
        try:
            nested = read_nested(msg.data)
        except errors.BadMessage as error:
            log.warning("a task's word cannot be read: %s", error)
            return
        if nested.node != msg.subject.rsplit(".", 1)[-1]:
            log.warning("%s spoke in the name of %s; dropped", msg.subject, nested.node)
            return
        driver = self._driver
        with self._lock:
            effects = driver.core.on_started(Token(nested.token), nested.index, nested.node)  # who submits runs
            _, taken = self.families.on_nested(nested)
        driver.code_is_stored(
            [code for word in nested.words for group in word.groups for code in group.profile.code_names()]
        )
        if taken.gone:
            self._send(nested.node, NestedAnswer(nested.token, nested.index, nested.run, 0, gone=True))
        self._follow(taken)
        driver.carry_out(effects, None)
        for lane in taken.lanes:
            driver.need_lane(lane)
        driver.pump()

    def _send(self, node: str, answer: NestedAnswer) -> None:
        self._connection.publish(subjects.nested_answer(self._session, node), messages.encode(answer))

    def _follow(self, taken: Taken) -> None:
        for child in taken.entries:
            if child.blob is not None:
                self._driver.forget_blob(child.blob)
        for ref in taken.blobs:
            self._driver.forget_blob(ref)
        if taken.effects:
            self._driver.carry_out(taken.effects, None)

    def collect(self) -> None:
        """Stop what the parents that have ended leave."""
        if self._driver.core.orphaned:
            with self._lock:
                taken = self.families.collect()
            self._follow(taken)

    def flush(self) -> None:
        """Tell parents what is new."""
        if self.families.news:
            with self._lock:
                due = self.families.due()
            for node, answer in due:
                self._send(node, answer)

    # ---- outcomes

    def on_value(self, child: Child, entry: Any, blob: BlobRef | None) -> None:
        """A child has succeeded."""
        if blob is not None:
            blob = BlobRef(child.ordinal, blob.id, blob.size, blob.path)
        self._settle(child, Event(child.ordinal, What.SUCCEEDED, entry, blob))

    def on_end(self, effect: sessions.Ended, entries: list[Any]) -> None:
        """A child has ended otherwise."""
        child: Child = effect.task.cargo
        raised = effect.mark.kind is Kind.RAISED and 0 <= effect.position < len(entries)
        entry = entries[effect.position] if raised else None
        event = Event(
            child.ordinal, What.ENDED, entry, None, effect.mark, effect.node, effect.slot, effect.task.attempts
        )
        self._settle(child, event)

    def _settle(self, child: Child, event: Event) -> None:
        if child.blob is not None:
            self._driver.forget_blob(child.blob)
        with self._lock:
            self.families.settle(child, event)
