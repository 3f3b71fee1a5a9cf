"""The log of a process of ours: a rotating file, in which a crash leaves its traceback too."""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

LOG_BYTES_MAX: Final = 4 * 1024 * 1024  # a file, with LOG_FILES_MAX older ones beside it
LOG_FILES_MAX: Final = 3
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_log = logging.getLogger("farmhand")


def start_logging(path: Path | None, level: str = "info") -> None:
    """Log from `level` on to a rotating file, or to standard error without one. Once in a process.

    From then on the log also has the traceback of what ends the process or one of its threads, what the event loop could
    not hand to anybody, and the stacks when the interpreter itself dies.
    """
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler()
    else:
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES_MAX)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    _log.addHandler(handler)
    _log.setLevel(level.upper())
    _catch_crashes(handler, path)
    _log.info("process %d begins", os.getpid())


def show_on_terminal(level: int, part: str = "farmhand.host") -> None:
    """Show what a supervisor, or another part, logs from `level` on, on standard error too."""
    here = logging.StreamHandler(sys.stderr)
    here.setLevel(level)
    here.setFormatter(logging.Formatter(LOG_FORMAT))
    logging.getLogger(part).addHandler(here)


def _catch_crashes(handler: logging.Handler, path: Path | None) -> None:
    logging.getLogger("asyncio").addHandler(handler)  # an event loop's exception handler logs there, with the traceback
    say, say_of_thread, say_of_unraisable = sys.excepthook, threading.excepthook, sys.unraisablehook

    def on_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            _log.critical("ended by an error that nobody foresaw", exc_info=(kind, error, trace))
        say(kind, error, trace)

    def on_thread_crash(what: threading.ExceptHookArgs) -> None:
        if what.exc_value is not None and not issubclass(what.exc_type, SystemExit):
            name = what.thread.name if what.thread is not None else "unknown"
            _log.critical("the thread %s ended by an error that nobody foresaw", name,
                          exc_info=(what.exc_type, what.exc_value, what.exc_traceback))  # fmt: skip
        say_of_thread(what)

    def on_unraisable(what: sys.UnraisableHookArgs) -> None:
        if what.exc_value is not None:
            _log.error("%s: %r", what.err_msg or "an error that nobody could be told", what.object,
                       exc_info=(what.exc_type, what.exc_value, what.exc_traceback))  # fmt: skip
        say_of_unraisable(what)

    sys.excepthook, threading.excepthook, sys.unraisablehook = on_crash, on_thread_crash, on_unraisable
    if path is not None and hasattr(os, "fork"):  # elsewhere a file that is open cannot be renamed
        # A descriptor of its own: that of the handler is closed when the file is turned over.
        faulthandler.enable(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
