"""Runs the blocks of a page in order: Python in one interpreter, commands in bash, all in one folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.docs.markdown import Block

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent  # where the command `farmhand` is
PATIENCE_S = 30.0
_ANYTHING = ("…", "...")
_LOOKS = ("farmhand status", "cat ")


def environment(home: Path, **more: str) -> dict[str, str]:
    """What a user's shell has."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FARMHAND_")}
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**kept, "PATH": path, "FARMHAND_HOME": str(home), "COLUMNS": "120", "PYTHONUNBUFFERED": "1", **more}


def matches(expected: str, printed: str) -> bool:
    """Whether each expected line is there, in this order. `...` stands for anything, also for whole lines."""
    at, lines = 0, [" ".join(line.split()) for line in printed.splitlines()]
    for line in expected.splitlines():
        wanted = " ".join(line.split())
        if not wanted or wanted in _ANYTHING:
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in re.split(r"…|\.\.\.", wanted)))
        while at < len(lines) and not pattern.fullmatch(lines[at]):
            at += 1
        if at == len(lines):
            return False
        at += 1
    return True


class PageRun:
    """One page being read and followed."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self._env = env
        self._state = folder / ".environment"
        self._python: subprocess.Popen[str] | None = None
        self._groups: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._python is not None:
            assert self._python.stdin is not None
            assert self._python.stdout is not None
            self._python.stdin.close()
            self._python.wait(PATIENCE_S)
            self._python.stdout.close()
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)

    def run(self, block: Block, where: str) -> None:
        """Follow one block; fails when it does, or when it prints something else than the page says."""
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            self._run_python(block, where)
        else:
            self._run_commands(block, where)

    # ---- Python

    def _run_python(self, block: Block, where: str) -> None:
        answer = self._ask("\n" * (block.line - 1) + block.text, where)
        assert not answer["problem"], f"{where}\n{answer['problem']}\n{answer['printed']}"
        deadline = time.monotonic() + PATIENCE_S / 6
        # What tasks print comes on another way than their results, and so may come after them.
        while block.expected is not None and not matches(block.expected, answer["printed"]):
            assert time.monotonic() < deadline, f"{where} prints\n{answer['printed']}\nand not\n{block.expected}"
            answer = self._ask(None, where)

    def _ask(self, code: str | None, name: str) -> dict[str, str]:
        if self._python is None:
            start = f"__import__('sys').path.append({str(HERE)!r}); __import__('block_server').serve(globals())"
            self._python = subprocess.Popen(
                [sys.executable, "-c", start], cwd=self.folder, env=self._env,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
            )  # fmt: skip
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.write(json.dumps({"code": code, "name": name}) + "\n")
        self._python.stdin.flush()
        line = self._python.stdout.readline()
        assert line, f"{name}: the interpreter ended"
        answer: dict[str, str] = json.loads(line)
        return answer

    # ---- commands

    def _run_commands(self, block: Block, where: str) -> None:
        if block.language == "sh":
            self._run_command(block.text, where)
            return
        for command, expected in commands(block.text):
            printed = self._run_command(command, where)
            deadline = time.monotonic() + PATIENCE_S / 6
            # Another process may not have said it yet: what `status` knows of a node is as old as its last heartbeat.
            while command.startswith(_LOOKS) and not matches(expected, printed):
                assert time.monotonic() < deadline, f"{where}: {command} prints\n{printed}\nand not\n{expected}"
                printed = self._run_command(command, where)
            assert matches(expected, printed), f"{where}: {command} prints\n{printed}\nand not\n{expected}"

    def _run_command(self, command: str, where: str) -> str:
        """One command. Variables that it sets are there for the next one; what it starts in the background lives on."""
        script = f"set -a; [ -f .environment ] && . ./.environment\n{textwrap.dedent(command)}\nstatus=$?\n"
        script += "export -p | grep -v ' PWD=\\| OLDPWD=\\| SHLVL=' > .environment; exit $status\n"
        output = self.folder / ".output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", script], cwd=self.folder, env=self._env, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
            self._groups.append(process.pid)
            code = process.wait(PATIENCE_S)
        printed = output.read_text(encoding="utf-8", errors="replace")
        assert code == 0, f"{where}: {command} ended with {code}\n{printed}"
        return printed


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a `console` block, each with what it prints."""
    found: list[list[str]] = []
    going_on = False
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append([line[2:], ""])
            going_on = line.endswith("\\")
        elif going_on or line.startswith("> "):
            found[-1][0] += "\n" + line.removeprefix("> ")
            going_on = line.endswith("\\")
        else:
            assert found, f"a console block begins with a command, not with {line!r}"
            found[-1][1] += line + "\n"
    return [(command, expected) for command, expected in found]
