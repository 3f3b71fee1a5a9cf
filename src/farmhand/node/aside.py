"""What may block for long, on a thread that the end of the process does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def on_thread(action: Callable[[], T], *, unwanted: Callable[[T], None] = lambda _: None) -> T:
    """What `action` returns or raises. When nobody waits any more by then, `unwanted` is given what it returned."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T) -> None:
        if future.cancelled():
            unwanted(result)
        else:
            future.set_result(result)

    def fail(error: BaseException) -> None:
        if not future.cancelled():
            future.set_exception(error)

    def run() -> None:
        try:
            result = action()
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(fail, error)
            return
        try:
            loop.call_soon_threadsafe(deliver, result)
        except RuntimeError:
            unwanted(result)

    threading.Thread(target=run, name="farmhand-aside", daemon=True).start()
    return await future
