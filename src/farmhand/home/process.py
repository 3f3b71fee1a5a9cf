"""What every process of ours does at its start: a loop, a log, and death with its parent."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

LOG_BYTES_MAX: Final = 4 * 1024 * 1024  # a file, with LOG_FILES_MAX older ones beside it
LOG_FILES_MAX: Final = 3
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


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


def start_logging(path: Path | None, level: int = logging.INFO) -> None:
    """Log to a rotating file, or to standard error without one."""
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler()
    else:
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_MAX)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logger = logging.getLogger("farmhand")
    logger.addHandler(handler)
    logger.setLevel(level)
