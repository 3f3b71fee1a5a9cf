"""Turns into the engine's process, having asked Linux to kill it when its parent dies.

Run by path as `python -I -S launch.py PARENT_PID PROGRAM ARGUMENT...`, so it imports nothing of ours. The request
survives exec and belongs to the thread that started this process: `broker.Broker` keeps that thread alive. Done here
and not in a `preexec_fn`, because Python code between fork and exec can deadlock in a program with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel, make sure that the parent still lives, become the program."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the request was made: nobody would ever end this process
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main()
