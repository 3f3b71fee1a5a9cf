"""A slot as it will be: another process, another folder, nothing of the client's on its import path."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import farmhand
from farmhand.code.failure import unpack_exception
from farmhand.code.pack import Code, Packer
from farmhand.code.values import unpack_result
from farmhand.model.messages import State

SOURCE = str(Path(farmhand.__path__[0]).parent)

SLOT = """
import os, pickle, struct, sys
from pathlib import Path
from farmhand.code.failure import pack_exception
from farmhand.code.load import Loader
from farmhand.code.values import pack_result

out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
loader = Loader(Path(sys.argv[1]))
while size := sys.stdin.buffer.read(8):
    job = pickle.loads(sys.stdin.buffer.read(*struct.unpack("<Q", size)))
    try:
        for name, blob in job["bundles"].items():
            loader.add_bundle(name, blob)
        needed = tuple(job["bundles"])
        if job["initializer"]:
            loader.run_initializer(job["hash"], job["blob"], needed, job["entry"])
            answer = True, (None,)
        else:
            code = loader.load_code(job["hash"], job["blob"], needed)
            answer = True, pack_result(loader.call(loader.begin(code, job["state"]), job["entry"]))
    except BaseException as error:
        answer = False, pack_exception(error, "on a slot in a test")
    data = pickle.dumps(answer)
    out.write(struct.pack("<Q", len(data)) + data)
    out.flush()
out.close()
"""


class Slot:
    def __init__(self, folder: Path) -> None:
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir(parents=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"PYTHONPATH": SOURCE}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SLOT, str(folder / "cache")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=elsewhere,
            env=environment,
        )
        self.packer = Packer()
        self.state = State()  # of the calls to come

    def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self.run_code(self.packer.code_for(fn), *args, **kwargs)

    def initialize(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._ask(self.packer.code_for(fn), args, kwargs, initializer=True)

    def run_code(self, code: Code, /, *args: Any, **kwargs: Any) -> Any:
        return self._ask(code, args, kwargs, initializer=False)

    def _ask(self, code: Code, args: Any, kwargs: Any, *, initializer: bool) -> Any:
        entry, more = self.packer.pack_call(args, kwargs)
        bundles = {name: self.packer.bundle(name).blob for name in sorted({*code.bundles, *more})}
        job = {"hash": code.hash, "blob": code.blob, "bundles": bundles, "entry": entry, "initializer": initializer,
               "state": self.state}  # fmt: skip
        data = pickle.dumps(job)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("<Q", len(data)) + data)
        self._process.stdin.flush()
        size = struct.unpack("<Q", self._process.stdout.read(8))[0]
        succeeded, answer = pickle.loads(self._process.stdout.read(size))
        if not succeeded:
            raise unpack_exception(answer)
        return unpack_result(answer)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(10) == 0
