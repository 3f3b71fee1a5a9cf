"""Runs `uv`, which builds environments, and tells in its own words why it could not."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from farmhand import errors
from farmhand.model import limits
from farmhand.node import processes
from farmhand.node.aside import on_thread

# What pip reads and uv does not, for machines that are set up for pip. uv's own variables win.
_FROM_PIP: Final = {
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL", "UV_INDEX": "PIP_EXTRA_INDEX_URL", "UV_NO_INDEX": "PIP_NO_INDEX",
    "SSL_CERT_FILE": "PIP_CERT",
}  # fmt: skip
_OLD_NAMES: Final = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
# They say which Python and which folders count; here the recipe says so.
_NOT_FOR_UV: Final = ("VIRTUAL_ENV", "UV_PYTHON", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME")
_NO_NETWORK: Final = re.compile(
    r"error sending request|dns error|tcp connect error|connection (refused|reset)|network is unreachable|timed out"
    r"|network was disabled|network connectivity is disabled|failed to lookup address|are you offline",
    re.IGNORECASE,
)


def find_uv() -> str:
    """The program: beside this interpreter, as its package says, or on PATH. Raises `EnvironmentFailed` when there is none."""
    beside = shutil.which("uv", path=str(Path(sys.executable).parent))
    if beside:
        return beside
    if importlib.util.find_spec("uv") is not None:
        import uv

        with contextlib.suppress(FileNotFoundError):
            return str(uv.find_uv_bin())
    if found := shutil.which("uv"):
        return found
    raise errors.EnvironmentFailed(
        "there is no uv on this node, which builds environments: install the package uv there"
    )


def surroundings() -> dict[str, str]:
    """The environment variables for uv: this process's, with what pip is told where uv is told nothing."""
    found = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_UV}
    for name, of_pip in _FROM_PIP.items():
        if os.environ.get(of_pip) and name not in found and _OLD_NAMES.get(name) not in found:
            found[name] = os.environ[of_pip]
    found["PATH"] = _search_path(found.get("PATH", ""))
    # When the agent is killed, its supervisor kills what bears this mark.
    return found | {"NO_COLOR": "1", "UV_NO_PROGRESS": "1", processes.SLOT_VARIABLE: "uv"}


def _search_path(path: str) -> str:
    """Where uv looks for Pythons: those that pyenv has put aside are there too, and not its shims, which fail."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [folder for folder in path.split(os.pathsep) if folder and Path(folder) != root / "shims"]
    return os.pathsep.join([*folders, *map(str, sorted(root.glob("versions/3.*/bin"), reverse=True))])


class Uv:
    """Runs uv for one agent. `close` ends what still runs."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._running: set[subprocess.Popen[bytes]] = set()

    async def run(self, folder: Path, *arguments: str, keep: tuple[int, ...] = ()) -> None:
        """Run it in `folder`. The descriptors in `keep` stay open for as long as it or a child of its lives.

        Raises `EnvironmentFailed` with the end of what it said.
        """
        command = [find_uv(), *arguments]
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - a spawn without fork takes a millisecond
                command, cwd=folder, env=surroundings(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, start_new_session=True, pass_fds=keep if os.name == "posix" else (),
            )  # fmt: skip
        except OSError as error:
            raise errors.EnvironmentFailed(f"uv could not be started on node {self._node}: {error}") from None
        processes.own.add(process.pid)
        self._running.add(process)
        try:
            words, code = await asyncio.wait_for(on_thread(_end_of(process)), limits.ENVIRONMENT_BUILD_S)
        except TimeoutError:
            text = f"uv was stopped on node {self._node} after {limits.ENVIRONMENT_BUILD_S:g} s"
            raise errors.EnvironmentFailed(text) from None
        finally:
            if process.returncode is None:  # nobody waits any more
                processes.kill_group(process.pid)
            self._running.discard(process)
        if code:
            raise errors.EnvironmentFailed(self._explain(arguments, code, words))

    def _explain(self, arguments: tuple[str, ...], code: int, words: str) -> str:
        what = "pip install" if arguments[0] == "pip" else arguments[0]
        text = f"the environment could not be built on node {self._node}"
        if _NO_NETWORK.search(words):
            text += ", which has no network, or none to where uv looks"
        return f"{text}: uv {what} ended with {code}:\n{words.strip() or 'it said nothing'}"

    def close(self) -> None:
        """Kill what runs."""
        for process in self._running:
            processes.kill_group(process.pid)


def _end_of(process: subprocess.Popen[bytes]) -> Callable[[], tuple[str, int]]:
    def wait() -> tuple[str, int]:
        """The end of its words and its exit code."""
        assert process.stderr is not None
        kept = b""
        with process.stderr as stream:
            while data := os.read(stream.fileno(), 1 << 16):
                kept = (kept + data)[-limits.ENVIRONMENT_WORDS_BYTES :]
        code = process.wait()
        processes.own.discard(process.pid)
        return kept.decode(errors="replace"), code

    return wait
