from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from farmhand import errors
from farmhand.home.lock import Holder, Lock, holder

HOLD = """
import os, sys
from pathlib import Path
from farmhand.home.lock import Holder, Lock
lock = Lock(Path(sys.argv[1]), Holder(os.getpid(), 7.0))
print("held", flush=True)
sys.stdin.read()
"""


def test_held_until_released(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "lock"
    assert holder(path) is None
    with Lock(path, Holder(os.getpid(), 12.5)) as lock:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert holder(path) == Holder(os.getpid(), 12.5)
        with pytest.raises(errors.FarmRunning, match=str(os.getpid())):
            Lock(path, Holder(1))
    assert holder(path) is None
    lock.release()
    Lock(path, Holder(2)).release()


def test_the_kernel_lets_go_when_the_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert holder(path) == Holder(process.pid, 7.0)
        with pytest.raises(errors.FarmRunning):
            Lock(path, Holder(1))
        process.kill()
        process.wait()
        assert holder(path) is None
