"""The farms that `farmhand use` has saved: names for addresses, and which of them is meant when none is named.

They are in `$FARMHAND_HOME/farms.toml`, mode 0600. It holds addresses and no token: what lets this machine in is kept
with its other credentials.
"""

from __future__ import annotations

import json
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import msgspec

from farmhand import errors
from farmhand.home import paths

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOSTS: Final = ("localhost",)  # what looks like a name and has always been an address


class Saved(msgspec.Struct):
    """What is saved. `farms`: addresses by name. `default`: the name that is meant when none is said; empty for none."""

    farms: dict[str, str] = {}
    default: str = ""


def is_name(text: str) -> bool:
    """Whether it is the name of a saved farm and no address: letters, digits, `-` and `_` only."""
    return bool(_NAME.fullmatch(text)) and text not in _HOSTS


def check_name(name: str) -> None:
    """Raise `BadOption` unless a farm can be saved under it."""
    if not is_name(name):
        shown = name.rpartition("@")[2][:80]  # it may be a join line that was meant to come second
        raise errors.BadOption(
            f"{shown!r} cannot be a farm's name: write 1 to 64 letters, digits, '-' and '_', "
            "so that it differs from an address"
        )


def file() -> Path:
    """Where they are kept."""
    return paths.home() / "farms.toml"


def load() -> Saved:
    """What is saved. Raises `BadOption` when somebody has made the file unreadable."""
    import tomllib

    try:
        raw: dict[str, Any] = tomllib.loads(file().read_text(encoding="utf-8"))
        found = msgspec.convert(raw, Saved)
    except FileNotFoundError:
        return Saved()
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise errors.BadOption(
            f"{file()}: {error}; mend it, or delete it and save the farms again with `farmhand use`"
        ) from None
    if found.default not in found.farms:
        found.default = ""
    return found


def store(saved: Saved) -> None:
    """Write them, readable by this user only. Raises `OSError`."""
    from farmhand.security.private_files import make_private_folder, write_private

    lines = ["# Written by `farmhand use`."]
    if saved.default:
        lines.append(f"default = {json.dumps(saved.default)}")
    lines += ["", "[farms]", *(f"{name} = {json.dumps(saved.farms[name])}" for name in sorted(saved.farms)), ""]
    make_private_folder(file().parent)
    write_private(file(), "\n".join(lines).encode())


def change(*, save: tuple[str, str] | None = None, remove: str = "", default: str | None = None) -> Saved:
    """Change what is saved, one process at a time. `default=""`: none is meant any more.

    Raises: `BadAddress` for a name that is not saved; `BadOption`; `FarmRunning` while another process changes it.
    """
    from farmhand.home.lock import Holder, Lock

    with Lock(paths.home() / "farms.lock", Holder(os.getpid())):
        saved = load()
        for name in (remove, default):
            if name and name not in saved.farms:
                raise unknown(name, saved)
        if save:
            saved.farms[save[0]] = save[1]
        if remove:
            del saved.farms[remove]
            saved.default = "" if saved.default == remove else saved.default
        if default is not None:
            saved.default = default
        store(saved)
    return saved


def address_of(text: str, place: str = "") -> str:
    """The address that a name stands for; what is no name comes back as it is. `place`: where it was written.

    Raises: `BadAddress` that lists the names there are; `BadOption` when they cannot be read.
    """
    if not is_name(text):
        return text
    saved = load()
    if text not in saved.farms:
        raise unknown(text, saved, place)
    return saved.farms[text]


def unknown(name: str, saved: Saved, place: str = "") -> errors.BadAddress:
    """The error for a name that is not saved."""
    near = get_close_matches(name, saved.farms, n=1)
    known = f"saved are {', '.join(sorted(saved.farms))}" if saved.farms else "none is saved yet"
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return errors.BadAddress(
        f"{f'{place}: ' if place else ''}no farm is saved as {name!r}; {known}. {hint}Save it with "
        f"`farmhand use {name} ADDRESS`, or write nats://{name}:4222 if it is a machine's name"
    )
