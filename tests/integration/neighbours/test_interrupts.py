"""Ctrl-C and forks in programs with joblib or a Pool: nothing hangs, nothing is left."""

from __future__ import annotations

import signal

import pytest
from tests.integration.executor.conftest import ROOT, Script, wait_all_gone
from tests.integration.executor.meeting import PATIENCE_S, Meeting

PROGRAM = """
import sys
sys.path.append({root!r})
from tests.integration.executor.meeting import arrive

PLACE = ("127.0.0.1", int(sys.argv[1]))
try:
    {body}
except KeyboardInterrupt:
    print("interrupted")
"""
BODIES = {
    "joblib": """
    import farmhand.joblib
    from joblib import Parallel, delayed, parallel_config
    with parallel_config(backend="farmhand"):
        Parallel(n_jobs=2, batch_size=1)(delayed(arrive)(PLACE) for _ in range(9))
    """,
    "pool": """
    from farmhand import Pool
    with Pool(2) as pool:
        pool.map(arrive, [PLACE] * 9)
    """,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_ctrl_c(script: Script, meeting: Meeting, body: str) -> None:
    process = script.start(PROGRAM.format(root=str(ROOT), body=body.strip()), str(meeting.place[1]))
    visitor = meeting.wait()
    process.send_signal(signal.SIGINT)
    visitor.wait_gone()
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (0, "interrupted\n", "")
    wait_all_gone(script.mark)


def test_a_forked_child_is_told_that_the_pool_is_not_its_own(script: Script) -> None:
    done = script.run(
        """
        import os, warnings
        from farmhand import Pool, errors

        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 says that forking beside threads is a risk
        with Pool(1) as pool:
            assert pool.apply(abs, (-1,)) == 1
            child = os.fork()
            if child == 0:
                try:
                    pool.map(abs, range(3))
                except errors.FarmClosed:
                    os._exit(7)
                os._exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), pool.apply(abs, (-2,)))
        """
    )
    assert done.stdout == "7 2\n"
