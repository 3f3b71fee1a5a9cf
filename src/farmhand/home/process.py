"""The event loop that our processes run on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any


def run_loop(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run until the coroutine ends, on uvloop where it exists and is not switched off by FARMHAND_UVLOOP=0."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(coroutine)


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop: uvloop's, or the standard one."""
    if os.environ.get("FARMHAND_UVLOOP", "1") != "0":
        try:
            import uvloop

            return uvloop.new_event_loop()
        except ImportError:
            pass
    return asyncio.new_event_loop()
