"""What can be settled once instead of being said each time: one table of settings, and the check of a value.

Where the values come from is the business of `farmhand.home.settings`. Here is only what they are.
"""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import Final

import msgspec

from farmhand import errors
from farmhand.model import limits
from farmhand.model.needs import parse_need

Value = str | int | float | bool | tuple[str, ...] | None
Default = Value

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_YES: Final = ("1", "true", "yes", "on")
_NO: Final = ("0", "false", "no", "off")
_OPEN: Final = "it decides who can reach this machine, which whoever wrote a project's file must not"
_RUN: Final = "it decides which program is run, which whoever wrote a project's file must not"


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. `owner_only`: why a project's file must not set it; empty when it may."""

    name: str
    kind: type
    default: Default = None
    variable: str
    used_by: tuple[str, ...]
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    owner_only: str = ""

    @property
    def option(self) -> str:
        """As the commands take it; empty for what is no option."""
        return {"nats_server": "", "capabilities": "--capability"}.get(self.name, f"--{self.name.replace('_', '-')}")


SETTINGS: Final = (
    Setting(name="farm", kind=str, variable="FARMHAND_FARM", used_by=("status", "doctor", "Farm"),
            help="the farm to use: a name saved with `farmhand use`, or an address"),
    Setting(name="slots", kind=int, variable="FARMHAND_SLOTS", used_by=("up", "join"), low=1,
            help="tasks at a time; without it one per usable core"),
    Setting(name="nodes", kind=int, default=1, variable="FARMHAND_NODES", used_by=("up",), low=0,
            help="node agents on this machine"),
    Setting(name="capabilities", kind=tuple, default=(), variable="FARMHAND_CAPABILITIES", used_by=("up", "join"),
            help="what this machine's nodes can do, such as latex or gpu=2; in the variable with commas"),
    Setting(name="grace", kind=float, default=limits.GRACE_S, variable="FARMHAND_GRACE", used_by=("up", "join"), low=0,
            help="seconds for running tasks at the end"),
    Setting(name="durability", kind=str, default="process", variable="FARMHAND_DURABILITY", used_by=("up",),
            choices=("process", "power"),
            help="what stored work survives: the death of every process, or a power cut too"),
    Setting(name="log_level", kind=str, default="info", variable="FARMHAND_LOG_LEVEL", used_by=("up", "join"),
            choices=LOG_LEVELS, help="the least grave that the logs keep"),
    Setting(name="listen", kind=str, default="127.0.0.1", variable="FARMHAND_LISTEN", used_by=("up",),
            owner_only=_OPEN, help="where the engine listens"),
    Setting(name="port", kind=int, variable="FARMHAND_PORT", used_by=("up",), low=1, high=65535, owner_only=_OPEN,
            help="the engine's port; without it that of the last run, else any free one"),
    Setting(name="websocket", kind=int, variable="FARMHAND_WEBSOCKET", used_by=("up",), low=1, high=65535,
            owner_only=_OPEN, help="a second port, for WebSocket"),
    Setting(name="insecure_plaintext", kind=bool, default=False, variable="FARMHAND_INSECURE_PLAINTEXT",
            used_by=("up",), owner_only=_OPEN, help="no TLS off loopback: all that passes can be read"),
    Setting(name="nats_server", kind=str, variable="FARMHAND_NATS_SERVER", used_by=("up", "doctor"), owner_only=_RUN,
            help="the nats-server to run: a path, or a name found on PATH"),
)  # fmt: skip
BY_NAME: Final = {setting.name: setting for setting in SETTINGS}

_WANTED: Final = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of texts"
}  # fmt: skip


def find(name: str) -> Setting:
    """The setting of that name. Raises `BadOption` with the nearest known name."""
    if name in BY_NAME:
        return BY_NAME[name]
    near = get_close_matches(name.replace("-", "_").lower(), BY_NAME, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(BY_NAME)}"
    raise errors.BadOption(f"there is no setting {name!r}; {hint}")


def checked(setting: Setting, value: object) -> Value:
    """The value as the commands take it. Raises `BadOption` that says what it must be."""
    kind = setting.kind
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        value = tuple(value)
    if type(value) is not kind:
        raise _wrong(setting, value, _WANTED[kind])
    if isinstance(value, str):
        _check_text(setting, value)
    elif isinstance(value, int | float) and kind is not bool:
        _check_range(setting, value)
    elif isinstance(value, tuple):
        try:
            for each in value:
                check_capability(each)
        except errors.BadNeed as error:
            raise errors.BadOption(f"{setting.name}: {error}") from None
    assert isinstance(value, str | int | float | tuple)
    return value


def parsed(setting: Setting, text: str) -> Value:
    """The value that a variable's text stands for. Raises `BadOption`."""
    text = text.strip()
    value: object = text
    if setting.kind is bool:
        value = True if text.lower() in _YES else False if text.lower() in _NO else text
    elif setting.kind is tuple:
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif setting.kind in (int, float):
        try:
            value = setting.kind(text)
        except ValueError:
            raise _wrong(setting, text, _WANTED[setting.kind]) from None
    return checked(setting, value)


def check_capability(text: str) -> None:
    """Raise `BadNeed` unless it has a name: `latex`, `gpu=2`."""
    parse_need(text.partition("=")[0])


def _check_text(setting: Setting, value: str) -> None:
    if setting.choices and value not in setting.choices:
        raise _wrong(setting, value, f"one of {', '.join(setting.choices)}")
    if not value.strip():
        raise _wrong(setting, value, "a text that is not empty; leave it out to have the default")


def _check_range(setting: Setting, value: float) -> None:
    low, high = setting.low, setting.high
    if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
        span = f"from {low:g} to {high:g}" if high is not None else f"at least {low:g}"
        raise _wrong(setting, value, f"{_WANTED[setting.kind]}, {span}")


def _wrong(setting: Setting, value: object, wanted: str) -> errors.BadOption:
    return errors.BadOption(f"{setting.name} = {_shown(value)}: it must be {wanted}")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)
    return "..." if "@" in text else text  # it may be a join line, which is a secret
