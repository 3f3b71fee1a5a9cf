"""Tasks of an ordinary session that ended badly: the engine keeps them for a while, so that they can be run again."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from farmhand import errors
from farmhand.client.sending import Large, cut_large
from farmhand.code.values import pack_values
from farmhand.core.session import Ended
from farmhand.engine import subjects
from farmhand.model import limits, messages
from farmhand.model.named import Block, Failed
from farmhand.model.outcome import STOPPED

if TYPE_CHECKING:
    from farmhand.client.driver import Driver

log = logging.getLogger("farmhand.client")


class Failures:
    """Stores them, the first FAILED_MAX of a session. Nobody waits for that, and nothing depends on it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._count = 0

    def note(self, effect: Ended) -> None:
        """This task ended badly; its arguments are still here."""
        task, driver = effect.task, self._driver
        if effect.mark.kind in STOPPED or self._count >= limits.FAILED_MAX:
            return
        self._count += 1
        group, entry = task.group, task.cargo._entry
        entries, refs = cut_large([entry])
        block = Block(messages.PROTOCOL, driver.session_id, 1, group.profile, group.lane, group.retry, refs)
        lacking = "its large arguments are gone" if type(entry) is Large else ""
        failed = Failed(
            messages.PROTOCOL, driver.session_id, "", time.time(), effect.mark, effect.node, effect.slot, task.attempts,
            block, lacking,
        )  # fmt: skip
        frame = messages.pack(failed, pack_values(entries))
        msg_id = f"{task.token:x}.{task.index}.failed"
        driver.publisher.publish(subjects.failed(driver.session_id), frame, self._on_stored, msg_id=msg_id)

    def _on_stored(self, _sequence: int, error: errors.EngineError | None) -> None:
        if error is not None:
            log.debug("a task that failed is not kept: %s", error)
