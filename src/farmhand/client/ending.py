"""How farms end: when they are dropped, when the interpreter ends, and in a forked child."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from farmhand.client.embedded import EmbeddedFarm
    from farmhand.client.farm import Farm
    from farmhand.client.link import Link

opened: Final[weakref.WeakSet[Farm]] = weakref.WeakSet()  # and not closed


def close(driver: Link, embedded: EmbeddedFarm | None) -> None:
    """End a session, and the farm that was only for it."""
    driver.close()
    if embedded is not None:
        embedded.close()


_finishing: set[threading.Thread] = set()


def finish_in_background(driver: Link, embedded: EmbeddedFarm | None) -> None:
    """A farm that was dropped or shut down without waiting: what was submitted still ends, then everything closes."""

    def finish() -> None:
        driver.leave()
        close(driver, embedded)
        _finishing.discard(thread)

    thread = threading.Thread(target=finish, name="farmhand-closing", daemon=True)
    _finishing.add(thread)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending: no thread can be started any more
        finish()


_interpreter_ends = False


def interpreter_ends() -> bool:
    """Whether it is too late to begin anything."""
    return _interpreter_ends


def _at_interpreter_end() -> None:
    """Before the interpreter joins its threads: wait for what was submitted, as the standard executors do."""
    global _interpreter_ends
    _interpreter_ends = True
    if getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1"):
        for farm in list(opened):  # Ctrl-C ended the program
            farm._abandon()
        return
    for farm in list(opened):
        farm._end()
    for thread in list(_finishing):
        if thread.ident is not None:  # Ctrl-C may have come before its start
            thread.join()


def _in_forked_child() -> None:
    """A forked child has neither the session's thread nor a right to the farm's processes: using them there is an error."""
    for farm in list(opened):
        farm._driver.on_forked()
        if farm._embedded is not None:
            farm._embedded.on_forked()
        farm._finalizer.detach()
    opened.clear()
    _finishing.clear()


_hooked = False


def remember(farm: Farm) -> None:
    """A farm was opened: it is ended when the interpreter ends, unless somebody does so before."""
    global _hooked
    opened.add(farm)
    if not _hooked:
        _hooked = True
        import concurrent.futures.thread  # its hook, which stops the loop's helper threads, must come after ours

        assert concurrent.futures.thread
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_in_forked_child)
        register = getattr(threading, "_register_atexit", None)  # runs while threads still can be used
        if register is None:
            import atexit

            register = atexit.register
        register(_at_interpreter_end)
