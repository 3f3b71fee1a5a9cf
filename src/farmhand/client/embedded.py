"""A farm inside this process's life: a supervisor as a child, which ends when we do, however we end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from farmhand import errors
from farmhand.engine.options import Options
from farmhand.home.login import options
from farmhand.home.paths import FarmFile, FarmFolder, home, remove_stale
from farmhand.model.address import parse_address
from farmhand.security.permissions import Role
from farmhand.security.private_files import make_private_folder

OWNER = "owner"


class EmbeddedFarm:
    """Starts at once and gets ready in the background; `wait_ready` raises what went wrong."""

    def __init__(self, nodes: tuple[int, ...]) -> None:
        parent = home() / "run"
        make_private_folder(parent)
        remove_stale(parent, "")
        self._root = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        self.folder = FarmFolder(self._root)
        self.file: FarmFile | None = None
        config = {"folder": str(self._root), "nodes": nodes, "durable": False, "quick_end": True}
        # -P, so that a module in the user's working directory cannot stand in the way of the supervisor's imports
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "farmhand.node.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(config) + b"\n")
        self._process.stdin.flush()

    def wait_ready(self) -> FarmFile:
        """Wait until the engine is up. Raises `EngineStartFailed` and its relatives."""
        if self.file is None:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            said = (
                msgspec.json.decode(line)
                if line
                else {"error": "its supervisor ended at once", "kind": "EngineStartFailed"}
            )
            if "error" in said:
                self.close()
                raise getattr(errors, said["kind"], errors.EngineStartFailed)(said["error"])
            self.file = msgspec.convert(said["farm"], FarmFile)
        return self.file

    def options(self) -> Options:
        """How the client connects to it."""
        content = self.wait_ready()
        return options(parse_address(content.address), self.folder.key(OWNER), Role.CLIENT, OWNER)

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    def on_forked(self) -> None:
        """In a forked child: it must not keep the farm alive, which ends when our end of its input closes."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.returncode = 0  # not a child of this process

    def close(self) -> None:
        """End everything and remove the state. Harmless when it has ended."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        shutil.rmtree(self._root, ignore_errors=True)
