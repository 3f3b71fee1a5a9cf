"""Stopping tasks of a named session: its caretaker is asked, once they are stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import wait
from typing import TYPE_CHECKING

from farmhand import errors
from farmhand.core.tasks import Task
from farmhand.model import limits, messages
from farmhand.model.named import Place, StopRequest

if TYPE_CHECKING:
    from farmhand.client.named import NamedDriver

log = logging.getLogger("farmhand.client")


class Stopper:
    """See `stop`. What the caretaker has ended hears of it on the session's thread."""

    def __init__(self, driver: NamedDriver) -> None:
        self._driver = driver

    def stop(self, tasks: Sequence[Task], *, kill: bool) -> list[bool]:
        """Withdraw tasks, and with `kill` stop those that run. Says which were ended at once; False when nobody can say.

        From any thread. A future's callback cannot wait for the answer: there it is False, and what can be is stopped later.
        """
        driver = self._driver
        if not tasks or not self._can_ask():
            return [False] * len(tasks)
        if driver.on_its_thread():
            driver.spawn(self._stop(tasks, kill=kill))
            return [False] * len(tasks)
        asked = asyncio.run_coroutine_threadsafe(self._stop(tasks, kill=kill), driver.loop)
        while not wait([asked], limits.SIGNAL_S).done:
            if not self._can_ask():
                return [False] * len(tasks)
        return asked.result()

    def _can_ask(self) -> bool:
        return self._driver.broken is None and self._driver.alive

    async def _stop(self, tasks: Sequence[Task], *, kill: bool) -> list[bool]:
        ended: list[bool] = []
        for at in range(0, len(tasks), limits.STOP_TASKS_MAX):
            some = tasks[at : at + limits.STOP_TASKS_MAX]
            try:
                ended += await self._ask(await self._places(some), kill=kill)
            except (errors.FarmhandError, TimeoutError) as error:
                log.warning("session %s: %d tasks were not stopped: %s", self._driver.state.name, len(some), error)
                ended += [False] * len(some)
        return ended

    async def _places(self, tasks: Sequence[Task]) -> list[Place]:
        """Where the engine has them. Raises `TimeoutError` when it does not store them."""
        for task in tasks:
            while not task.token:
                await asyncio.wait_for(self._driver.next_stored().wait(), limits.REQUEST_S)
        return [(int(task.token), task.index) for task in tasks]

    async def _ask(self, places: list[Place], *, kill: bool) -> list[bool]:
        driver = self._driver
        request = messages.encode(StopRequest(driver.session_id, tuple(places), kill))
        answer: list[bool] = await driver.request("session-stop", request)
        for place, ended in zip(places, answer, strict=True):
            if ended:
                driver.on_stopped(place)
        return answer
