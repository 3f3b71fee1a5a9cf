"""What a farm and its futures show, and progress that is updated in place: in a real IPython shell and on a real terminal."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.aio.visits import visit
from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S, Meeting, arrive
from tests.integration.executor.test_contract import wait_running

from farmhand import AsyncFarm, Farm
from farmhand.client.progress import Bar, in_notebook


@pytest.fixture(scope="module")
def plain(nothing_left_behind: None) -> Iterator[Farm]:
    with Farm(max_workers=2, output=False) as farm:
        yield farm


def fail(text: str) -> None:
    raise ValueError(text)


def test_a_future_says_its_state_name_and_outcome(plain: Farm, meeting: Meeting) -> None:
    running = plain.options(name="a<b").submit(arrive, meeting.place)
    visitor = meeting.wait()
    wait_running(running)
    assert "state=running name=a<b" in repr(running)
    running.on_running("n1")
    assert repr(running).endswith("state=running name=a<b node=n1>")
    assert "a&lt;b" in running._repr_html_()
    other = plain.submit(arrive, meeting.place)
    second = meeting.wait()
    waiting = plain.submit(abs, -1)
    assert "state=pending name=abs" in repr(waiting)
    assert waiting.cancel()
    assert "state=cancelled" in repr(waiting)
    for one in (visitor, second):
        one.release()
    cf.wait([running, other], PATIENCE_S)
    assert repr(running).endswith("state=finished returned NoneType>")
    failed = plain.submit(fail, "x")
    failed.exception(PATIENCE_S)
    assert "state=finished raised ValueError" in repr(failed)
    killed = plain.options(timeout=0.1).submit(arrive, meeting.place)
    killed.exception(PATIENCE_S)
    assert re.search(r"raised TaskTimedOut node=\S+>", repr(killed))


def test_a_farm_says_what_it_did(meeting: Meeting) -> None:
    with Farm(max_workers=1, output=False) as farm:
        assert farm.submit(abs, -1).result(PATIENCE_S) == 1
        farm.submit(fail, "x").exception(PATIENCE_S)
        future = farm.submit(arrive, meeting.place)
        visitor = meeting.wait()
        shown = farm._repr_html_()
        for part in (farm.session, "done: <b>1<", "failed: <b>1<", "running: <b>1<"):
            assert part in shown
        visitor.release()
        assert future.result(PATIENCE_S) is None
    assert "closed" in farm._repr_html_()


class Shell:
    """A real IPython shell as a notebook's kernel has one, and what it displayed."""

    def __init__(self) -> None:
        from IPython.core.displaypub import DisplayPublisher
        from IPython.core.interactiveshell import InteractiveShell

        shown: list[tuple[dict[str, Any], dict[str, Any], bool]] = []

        class Publisher(DisplayPublisher):  # type: ignore[misc]
            def publish(self, data: Any, *, transient: Any = None, update: bool = False, **more: Any) -> None:
                shown.append((data, transient or {}, update))

        self.shown = shown
        InteractiveShell.clear_instance()
        self.shell = InteractiveShell.instance(display_pub_class=Publisher)

    def run(self, code: str, **names: Any) -> Any:
        self.shell.user_ns.update(names)
        done = self.shell.run_cell(code)
        done.raise_error()
        return done.result


@pytest.fixture
def shell(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
    import builtins

    monkeypatch.setattr(sys, "displayhook", sys.displayhook)
    display = getattr(builtins, "display", None)
    shell = Shell()
    yield shell
    from IPython.core.interactiveshell import InteractiveShell

    shell.shell.history_manager.end_session()
    InteractiveShell.clear_instance()
    if display is None and hasattr(builtins, "display"):
        del builtins.display


def check_bar(shell: Shell, total: int, failed: int) -> None:
    """One display, updated in place, whose last state is complete."""
    assert len({transient["display_id"] for _, transient, _ in shell.shown}) == 1
    assert [update for _, _, update in shell.shown] == [False] + [True] * (len(shell.shown) - 1)
    assert len(shell.shown) >= 2
    data = shell.shown[-1][0]
    assert f'<progress value="{total}" max="{total}">' in data["text/html"]
    assert f"{total}/{total}" in data["text/plain"]
    assert (f"{failed} failed" in data["text/html"]) == bool(failed)


def test_progress_in_a_notebook(shell: Shell, plain: Farm) -> None:
    assert in_notebook()
    futures = [plain.submit(fail if i == 3 else abs, -i) for i in range(10)]  # type: ignore[arg-type]
    code = "seen = [future for future in farm.progress(futures, title='<scores>')]; len(seen)"
    assert shell.run(code, farm=plain, futures=futures) == 10
    assert set(shell.shell.user_ns["seen"]) == set(futures)
    check_bar(shell, 10, 1)
    assert "&lt;scores&gt;" in shell.shown[-1][0]["text/html"]


def test_progress_of_an_async_farm_in_a_notebook(
    shell: Shell, runner: asyncio.Runner, farm: AsyncFarm, meeting: Meeting
) -> None:
    async def main() -> None:
        futures = [farm.submit(arrive, meeting.place, 1), *(farm.submit(abs, -i) for i in range(5))]
        visitor = await visit(meeting)
        seen = 0
        async for future in farm.progress(futures):
            assert future.done()
            seen += 1
            if seen == 5:
                visitor.release()
        assert seen == 6

    runner.run(main())
    check_bar(shell, 6, 0)


def test_top_level_await_in_a_notebook(shell: Shell) -> None:
    code = "from farmhand import AsyncFarm\nfarm = await AsyncFarm(max_workers=1, output=False)\n"
    code += "got = await farm.submit(pow, 2, 5)\nawait farm.shutdown()\ngot"
    assert shell.run(code) == 32


def test_a_future_and_a_farm_are_shown_as_html(shell: Shell, plain: Farm) -> None:
    future = plain.submit(abs, -1)
    future.result(PATIENCE_S)
    for thing in (plain, future):
        data, _ = shell.shell.display_formatter.format(thing)
        assert data["text/html"] == thing._repr_html_()
        assert data["text/plain"] == repr(thing)


def test_leaving_early_shows_how_far_it_came(shell: Shell, plain: Farm) -> None:
    futures = [plain.submit(abs, -i) for i in range(10)]
    progress = plain.progress(futures)
    next(progress)
    progress.close()  # type: ignore[attr-defined]
    assert 'value="1" max="10"' in shell.shown[-1][0]["text/html"]


def test_the_bar_tells_the_time() -> None:
    bar = Bar(4, "title")
    bar._began -= 3725
    bar.done = 2
    assert repr(bar) == "title 2/4 · 1:02:05 · 1:02:05 left"
    bar.done = 4
    assert repr(bar) == "title 4/4 · 1:02:05"
    assert repr(Bar(0)) == "0/0 · 0:00"


PROGRAM = """
    from farmhand import Farm

    if __name__ == "__main__":
        with Farm(max_workers=1, output=False) as farm:
            futures = [farm.submit(abs, -i) for i in range(20)]
            print(sum(future.result() for future in farm.progress(futures, title="sums")))
"""


def test_progress_on_a_terminal_is_updated_in_place(script: Script) -> None:
    main, terminal = os.openpty()
    path = script.file("program.py", PROGRAM)
    environment = {**script.environment, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=terminal, text=True) as process:
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(main, 4096):
                shown += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(main)
        assert process.stdout is not None
        assert process.stdout.read().strip() == "190"
    text = shown.decode()
    assert "sums" in text
    assert "20/20" in text
    assert "\x1b[2K" in text, "the line is erased and written anew"


def test_progress_into_a_file_is_its_last_state(script: Script) -> None:
    done = script.run(PROGRAM)
    assert done.stdout.strip() == "190"
    assert done.stderr.count("20/20") == 1
    assert "\x1b" not in done.stderr
