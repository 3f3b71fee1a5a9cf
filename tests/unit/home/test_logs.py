"""What a process that crashes leaves in its log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from farmhand.doctor.machine_steps import _troubles

START = "import pathlib, sys; from farmhand.home.logs import start_logging; start_logging(pathlib.Path(sys.argv[1]), 'warning')\n"
CRASHES = {
    "main thread": ("raise ValueError('barn')", "ValueError: barn"),
    "another thread": (
        "import threading; t = threading.Thread(target=lambda: {}['hay']); t.start(); t.join()",
        "KeyError: 'hay'",
    ),
    "event loop": (
        """
import asyncio
from farmhand.home.process import run_loop
async def main():
    asyncio.get_running_loop().call_soon(lambda: 1 // 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
run_loop(main())
""",
        "ZeroDivisionError: ",
    ),
    "unraisable": ("class A:\n    def __del__(self): raise OSError('straw')\nA()", "OSError: straw"),
    "interpreter": ("import faulthandler; faulthandler._sigabrt()", "Current thread "),
}


def run(code: str, log: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", START + code, log], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("where", CRASHES)
def test_a_crash_leaves_its_traceback_where_the_doctor_looks(where: str, tmp_path: Path) -> None:
    code, said = CRASHES[where]
    log = tmp_path / "x.log"
    run(code, log)
    assert [line for _, line in _troubles(log, 0.0) if line.startswith(said)], log.read_text()


def test_what_is_no_crash_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    done = run("sys.exit(3)", log)
    assert done.returncode == 3
    run("raise KeyboardInterrupt", log)
    assert log.read_text() == ""


def test_levels_and_turning_over(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    many = "l = logging.getLogger('farmhand.x')\nfor i in range(120): l.warning('%s', 'x' * 50_000)\nl.info('quiet')\n"
    done = run("import logging\n" + many + "raise ValueError('late')", log)
    assert "late" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "x.log.1"]
    assert log.read_text().endswith("ValueError: late\n")
    assert "quiet" not in log.read_text()
