"""A second machine on this one: a network namespace at the end of a cable that can be cut, both ways or one way."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

BOTH_WAYS, TOWARDS_US, TOWARDS_THEM = "both ways", "towards us only", "towards them only"
CUTS = {BOTH_WAYS: ("INPUT", "OUTPUT"), TOWARDS_US: ("OUTPUT",), TOWARDS_THEM: ("INPUT",)}


def possible() -> bool:
    """Whether this machine lets us: root, `ip` and `iptables`, and namespaces that can be made."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if (
        not hasattr(os, "geteuid")
        or os.geteuid() != 0
        or not all(shutil.which(name, path=path) for name in ("ip", "iptables"))
    ):
        return False
    name = f"fh{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    works = (
        made
        and subprocess.run(
            ["ip", "netns", "exec", name, "iptables", "-L", "-n"], check=False, capture_output=True
        ).returncode
        == 0
    )
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return works


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


class Cable:
    """`address` is ours, reachable from the namespace `name`; `prefix` starts a command there."""

    def __init__(self) -> None:
        self.name = f"fh{secrets.token_hex(3)}"
        net = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}"
        self.address, self.theirs = f"{net}.1", f"{net}.2"
        self.prefix = ["ip", "netns", "exec", self.name]

    def __enter__(self) -> Self:
        near, far = f"{self.name}a", f"{self.name}b"
        _run("ip", "netns", "add", self.name)
        try:
            _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name)
            _run("ip", "addr", "add", f"{self.address}/24", "dev", near)
            _run("ip", "link", "set", near, "up")
            _run(*self.prefix, "ip", "addr", "add", f"{self.theirs}/24", "dev", far)
            _run(*self.prefix, "ip", "link", "set", far, "up")
            _run(*self.prefix, "ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    @contextmanager
    def cut(self, how: str) -> Iterator[None]:
        """Nothing passes in these directions, and nobody is told. Healed at the end."""
        for chain in CUTS[how]:
            end = ("-i" if chain == "INPUT" else "-o", f"{self.name}b")  # what stays in the namespace passes
            _run(*self.prefix, "iptables", "-A", chain, *end, "-j", "DROP")
        try:
            yield
        finally:
            for chain in CUTS[how]:
                _run(*self.prefix, "iptables", "-F", chain)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)
