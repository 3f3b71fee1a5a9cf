"""Folders of Farmhand on this machine.

$FARMHAND_HOME/             by default the user's data directory
  farm/                     a farm that `farmhand up` runs here
    engine/ keys/ tls/ logs/ farm.json
  known/<host>_<port>/      what this machine needs to reach a farm: keys, its CA
  cache/                    code by content hash, shared by the nodes of this machine
  run/                      embedded farms; removed at their end
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from farmhand.model.address import Address
from farmhand.security.private_files import make_private_folder, write_private


def home() -> Path:
    """`$FARMHAND_HOME`, or the user's data directory of this platform."""
    if given := os.environ.get("FARMHAND_HOME"):
        return Path(given).expanduser().absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "farmhand"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "farmhand"
    return Path(os.environ.get("XDG_DATA_HOME", str(Path.home() / ".local" / "share"))) / "farmhand"


def known(address: Address) -> Path:
    """Where the credentials for a farm elsewhere are kept."""
    return home() / "known" / address.key


def cache() -> Path:
    """Code by content hash."""
    return home() / "cache"


def shared_memory() -> Path:
    """A folder whose files live in memory where the platform has one; else the temporary directory."""
    candidate = Path("/dev/shm")  # noqa: S108 (everything of ours in it has a private folder)
    return candidate if candidate.is_dir() and os.access(candidate, os.W_OK) else Path(tempfile.gettempdir())


def machine_name() -> str:
    """This machine's name, as a token of a subject."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in platform.node())[:40] or "machine"


def remove_stale(folder: Path, prefix: str) -> None:
    """Remove what killed processes left behind: our own folders `<prefix><process id>-...` whose process is gone."""
    if os.name != "posix":
        return
    for left in folder.glob(f"{prefix}[0-9]*-*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        try:
            if pid.isdigit() and left.stat().st_uid == os.getuid() and not _exists(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue  # somebody else was faster


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class FarmFile(msgspec.Struct, kw_only=True):
    """`farm.json`: a running farm as its supervisor describes it to everybody else on this machine."""

    address: str  # for this machine
    pid: int  # of the supervisor
    version: str
    engine_pid: int = 0
    steward_pid: int = 0
    node_pids: tuple[int, ...] = ()
    join_line: str = ""
    port: int = 0
    websocket: str = ""  # the same farm's address for WebSocket, when it has that door
    spool: str = ""  # set when every node of the farm is on this machine
    server: str = ""  # its name in a cluster
    server_line: str = ""  # with which a further server of the cluster is started


class FarmFolder:
    """The state of one farm that runs on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.engine = root / "engine"
        self.keys = root / "keys"
        self.tls = root / "tls"
        self.logs = root / "logs"
        self.file = root / "farm.json"
        self.lock = root / "host.lock"  # held by the supervisor: see `home.lock`
        self._port = root / "port"
        self._epoch = root / "epoch"

    def make(self) -> None:
        """Make what is missing, readable by the owner only."""
        for folder in (self.root, self.engine, self.keys, self.tls, self.logs):
            make_private_folder(folder)

    def key(self, name: str) -> Path:
        """Where the key of one of the farm's own parts is."""
        return self.keys / f"{name}.nk"

    @property
    def ca(self) -> Path:
        """The farm's authority; there only when it once listened off loopback."""
        return self.tls / "ca.pem"

    def write(self, content: FarmFile) -> None:
        """Say what runs here."""
        write_private(self.file, msgspec.json.format(msgspec.json.encode(content)), durable=False)

    def read(self) -> FarmFile | None:
        """What `farm.json` says; None when no farm has run here or the file is unreadable."""
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=FarmFile)
        except (OSError, msgspec.DecodeError):
            return None

    def remember_port(self, port: int) -> None:
        """Keep the engine's port for the next start: who has joined knows the farm by it."""
        write_private(self._port, f"{port}\n".encode(), durable=False)

    def renew_epoch(self) -> None:
        """From now on this is another life of the farm: its streams were put back to what they were once."""
        write_private(self._epoch, f"{secrets.token_hex(6)}\n".encode())

    @property
    def server_name(self) -> str:
        """The engine's name, which it tells everybody who connects: another one after each `renew_epoch`."""
        try:
            return f"farmhand-{self._epoch.read_text().strip()}"
        except OSError:
            return "farmhand"

    def remembered_port(self) -> int:
        """The port of the last run, 0 when there was none."""
        try:
            return int(self._port.read_text())
        except (OSError, ValueError):
            return 0


def default_farm() -> FarmFolder:
    """The folder of this user's own farm."""
    return FarmFolder(home() / "farm")


def process_alive(pid: int) -> bool:
    """Whether a process of that id exists."""
    if pid <= 0:
        return False
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
