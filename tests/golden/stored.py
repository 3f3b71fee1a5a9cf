"""What Farmhand keeps in the engine and in files, and how it is read: one row each. A later version must read all of it.

To add a row, write how its file is made and how the product reads it, and run `python tests/golden/make.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from farmhand.code.values import pack_values, unpack_values
from farmhand.home import paths, saved, settings
from farmhand.home.lock import Holder
from farmhand.model import messages
from farmhand.model.messages import Feed, Profile, Report, State, Work, pack, split
from farmhand.model.named import (
    About,
    Block,
    Failed,
    Input,
    Settled,
    Tried,
    read_about,
    read_block,
    read_failed,
    read_settled,
)
from farmhand.model.needs import Lane, Need
from farmhand.model.outcome import BlobRef, Kind, Mark
from farmhand.model.retry import Retry
from farmhand.node.codecache import code_payload
from farmhand.security.accounts import Register, User, UserStore
from farmhand.security.nkeys import KeyPair, load_seed, store_seed
from farmhand.security.permissions import Role
from farmhand.security.private_files import write_private


class Stored(NamedTuple):
    """`write(folder)` makes `folder / name`, the same each time. `read(folder)` gives what the product finds in it."""

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]


@contextmanager
def home(folder: Path) -> Iterator[None]:
    """With `folder` as $FARMHAND_HOME."""
    before = os.environ.get("FARMHAND_HOME")
    os.environ["FARMHAND_HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["FARMHAND_HOME"]
        if before is not None:
            os.environ["FARMHAND_HOME"] = before


WORK: Final = Work(
    3, "k0123456789ab", 2**62 + 1, 2,
    Profile("c" * 32, "area", ("b" * 32,), "i" * 32, "a" * 32, 1.5, 2**30, True, State("k1", "k2", True), 2**30, "e" * 32),
    0.25, True, 3, (BlobRef(1, "x-1", 2**40, "/dev/shm/x", True),), ((17, 0, 2),), (4, 5), 1, (Feed(1, (0, 2), 1),),
)  # fmt: skip
REPORT: Final = Report(
    3, 2**62 + 1, 0, 3, "barn", 1, (Mark(1, Kind.CRASHED, "died", 3, 9, ("last", "lines"), 2**31), Mark(2, Kind.RETURNED)),
    0.5, 0.25, (BlobRef(0, "x-0", 4096),), ((17, 0, 3),),
)  # fmt: skip
LANE: Final = Lane((Need("cpus", "=", "2"), Need("latex"), Need("mem", ">=", "8GiB")), "3.11", -5)
USERS: Final = Register(
    (
        User(role=Role.CLIENT, name="owner", public_key="U" + "A" * 55),
        User(role=Role.NODE, name="barn", public_key="U" + "B" * 55, publish=("res.*.barn",), subscribe=()),
    ),
    "T" * 32,
)
ABOUT: Final = About(3, "0.1.0", "night-run", "n0123456789ab", 1795274307.052, 30 * 86400.0, 2**35, 2**31)
BLOCK: Final = Block(
    3, "n0123456789ab", 2, Profile("c" * 32, "area", result_max=2**30), LANE, Retry(3, 0.5, 2.0, 60.0, ("error", "crash")),
    (BlobRef(1, "1f-1", 2**21),),
)  # fmt: skip
SETTLED: Final = Settled(
    3, ((17, 0, 2), (19, 5, 1)), (Mark(2, Kind.RAISED, "ValueError: no"),), "barn", 1, (BlobRef(0, "x-0", 4096),), (2,), 17, 100, 2, 1,
    12345, 1.5, 1.25,
)  # fmt: skip
BLOCK_WITH_INPUTS: Final = Block(
    3, "n0123456789ab", 2, Profile("c" * 32, "total"), LANE, Retry(), (BlobRef(3, "1f-2", 2**21, mapped=True, name="an array"),),
    after=18, feeds=(Feed(1, (0, 2, 3, 4)),), inputs=(Input(2, 17, 1, 19, "area"),), counted=2**21,
)  # fmt: skip
SETTLED_BY_AN_INPUT: Final = Settled(
    3, ((21, 0, 1),), (Mark(0, Kind.REFUSED, "did not run, because its input 'area' failed"),), attempts=(0,), low=17,
    causes=((0, 17, 1),),
)  # fmt: skip
SETTLED_LATER: Final = Settled(
    3, (), (), "barn", 1, low=17, tried=(Tried(17, 1, 18, 3, 2, 1, 1), Tried(19, 0, 23, 1, 1, 0, 0)),
)  # fmt: skip
FAILED: Final = Failed(
    3, "n0123456789ab", "night-run", 1795274309.5, Mark(0, Kind.TIMED_OUT, "stopped", tail=("last",)), "barn", 0, 3,
    Block(3, "n0123456789ab", 1, Profile("c" * 32, "area"), LANE, Retry()), "its large arguments are gone",
)  # fmt: skip
FARM: Final = paths.FarmFile(
    address="tls://127.0.0.1:4222", pid=1, version="0.1.0", engine_pid=2, steward_pid=3, node_pids=(4, 5),
    join_line="tls://TOKEN@192.0.2.10:4222?pin=sha256:00", port=4222, websocket="wss://127.0.0.1:443", spool="/dev/shm/f",
)  # fmt: skip
CONFIG: Final = """slots = 2
capabilities = ["latex", "gpu=2"]
grace = 2.5
durability = "power"
listen = "0.0.0.0"
port = 4222
insecure_plaintext = true
"""


def _read_frame(path: Path, codec: Callable[[Any], Any]) -> Any:
    header, body = split(path.read_bytes())
    return {"header": msgspec.to_builtins(codec(header)), "entries": msgspec.to_builtins(unpack_values(body))}


def _write_saved(folder: Path) -> None:
    with home(folder):
        saved.store(saved.Saved({"office": "tls://192.0.2.10:4222", "here": "nats://127.0.0.1:4222"}, "office"))


def _read_saved(folder: Path) -> Any:
    with home(folder):
        return msgspec.to_builtins(saved.load())


def _read_settings(folder: Path) -> Any:
    with home(folder):
        return {name: each.value for name, each in settings.settle("up").items() if each.source is settings.Source.USER}


def _read_code(folder: Path) -> Any:
    data = (folder / "code.blob").read_bytes()
    return {"size": int(data[:16]), "content": data[16:].decode()}


def _json(name: str, value: Any, kind: Any) -> Stored:
    return Stored(
        name,
        lambda folder: void((folder / name).write_bytes(msgspec.json.encode(value))),
        lambda folder: msgspec.to_builtins(msgspec.json.decode((folder / name).read_bytes(), type=kind)),
    )


def _frame(name: str, header: Any, entries: list[Any], codec: Callable[[Any], Any]) -> Stored:
    return Stored(
        name,
        lambda folder: void((folder / name).write_bytes(pack(header, pack_values(entries)))),
        lambda folder: _read_frame(folder / name, codec),
    )


def void(_: object) -> None:
    """For functions that give nothing."""


STORED: Final = (
    _frame("work.frame", WORK, [(3, "four"), None], messages.read_work),
    _frame("report.frame", REPORT, [("a value",), None], messages.read_report),
    Stored("about.msg", lambda folder: void((folder / "about.msg").write_bytes(messages.encode(ABOUT))),
           lambda folder: msgspec.to_builtins(read_about((folder / "about.msg").read_bytes()))),
    _frame("block.frame", BLOCK, [(3, "four"), None], read_block),
    _frame("block-with-inputs.frame", BLOCK_WITH_INPUTS, [(3,), b"packed", None, None, b"given"], read_block),
    _frame("settled-by-an-input.frame", SETTLED_BY_AN_INPUT, [], read_settled),
    _frame("settled.frame", SETTLED, [None, (1.5,), b"packed"], read_settled),
    _frame("settled-later.frame", SETTLED_LATER, [], read_settled),
    _frame("failed.frame", FAILED, [None], read_failed),
    _json("lane.json", LANE, Lane),  # in the metadata of a lane's consumer
    Stored("code.blob", lambda folder: void((folder / "code.blob").write_bytes(code_payload(b"packed"))), _read_code),
    Stored("users.json", lambda folder: write_private(folder / "users.json", msgspec.json.encode(USERS)),
           lambda folder: msgspec.to_builtins(UserStore(folder).load())),
    Stored("node-barn.nk", lambda folder: store_seed(folder / "node-barn.nk", KeyPair(bytes(range(32))), durable=False),
           lambda folder: load_seed(folder / "node-barn.nk").public),
    _json("node-barn.json", "tls://192.0.2.10:4222", str),  # the note that a key was taken in
    Stored("farm.json", lambda folder: paths.FarmFolder(folder).write(FARM),
           lambda folder: msgspec.to_builtins(paths.FarmFolder(folder).read())),
    Stored("port", lambda folder: paths.FarmFolder(folder).remember_port(4222),
           lambda folder: paths.FarmFolder(folder).remembered_port()),
    _json("host.lock", Holder(1, 12.5), Holder),
    Stored("farms.toml", _write_saved, _read_saved),
    Stored("config.toml", lambda folder: void((folder / "config.toml").write_text(CONFIG)), _read_settings),
)  # fmt: skip
