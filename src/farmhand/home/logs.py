"""The log of a process of ours: a rotating file."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path
from typing import Final

LOG_BYTES_MAX: Final = 4 * 1024 * 1024  # a file, with LOG_FILES_MAX older ones beside it
LOG_FILES_MAX: Final = 3
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


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
