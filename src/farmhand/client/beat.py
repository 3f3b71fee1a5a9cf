"""A session's heartbeat: what the steward and `farmhand status` know of it."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from farmhand.model import messages
from farmhand.model.messages import SessionBeat
from farmhand.model.version import VERSION

if TYPE_CHECKING:
    from farmhand.client.driver import Driver


def beat_of(driver: Driver, *, ended: bool) -> SessionBeat:
    """The driver's session as it is now."""
    counts = driver.core.counts
    running = sum(batch.left for batch in driver.core.batches.values())
    return SessionBeat(
        messages.PROTOCOL, VERSION, driver.session_id, platform.node(), os.getpid(), _user(),
        driver.config.on_client_loss, max(0, driver.open - running), running, counts.done, counts.failed, counts.cpu,
        counts.seconds, driver.bytes_in, driver.sender.bytes_out, tuple(driver.core.windows), ended,
    )  # fmt: skip


def _user() -> str:
    return os.environ.get("USER") or os.environ.get("USERNAME") or str(getattr(os, "getuid", lambda: "?")())
