"""Lets tasks fail in each way there is, and shows what the caller gets.

    python examples/failures.py [--farm ADDRESS]

Each way has an error of its own, and the farm lives on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

from farmhand import Farm, errors


def raises() -> None:
    """An exception of the task's own."""
    raise ValueError("this seed does not grow")


def exits() -> None:
    """`sys.exit` ends the task and not its slot."""
    sys.exit(4)


def dies() -> None:
    """The process is gone, three times."""
    print("about to be killed")
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def takes_too_long() -> None:
    """Longer than its time limit."""
    time.sleep(60)


def takes_too_much() -> int:
    """More memory than it said it needs."""
    hay = bytearray(400_000_000)
    time.sleep(5)
    return len(hay)


def returns_a_lock() -> object:
    """A result that cannot be sent."""
    return threading.Lock()


def show(farm: Farm, function: Callable[[], object], **options: object) -> None:
    """Run one and print how it ended."""
    try:
        farm.options(**options).submit(function).result()  # type: ignore[arg-type]
    except (Exception, SystemExit, CancelledError) as error:  # noqa: BLE001 (whatever comes is shown)
        print(f"{function.__name__}: {type(error).__name__}: {error}")
        if isinstance(error, errors.TaskError):
            print(f"    exit code {error.exit_code}, signal {error.signal}, attempt {error.attempt}")
            print(f"    last lines: {list(error.tail)}")


def main() -> None:
    """Read the options and let them fail."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--farm", help="a farm's address; without it a farm on this machine for as long as this runs")
    with Farm(parser.parse_args().farm, output=False) as farm:
        show(farm, raises)
        show(farm, exits)
        show(farm, dies)
        show(farm, takes_too_long, timeout=0.5)
        show(farm, takes_too_much, needs=["mem=200MiB"])
        show(farm, returns_a_lock)
        print("and the farm goes on:", farm.submit(sum, [1, 2, 3]).result())


if __name__ == "__main__":
    main()
