"""Where the values of settings come from: layers, of which the later wins.

    default < saved (`farmhand use NAME`) < user's file < project's file < variable < option

The user's file is `$FARMHAND_HOME/config.toml`. The project's is the first `farmhand.toml`, or `pyproject.toml` with a
table `[tool.farmhand]`, from the current folder upwards; the search ends at the root of a repository and at the user's
home. A project's file comes with whatever folder one stands in, so it cannot open this machine, choose a program to run,
or name a farm that this user has not saved: who runs the farm gets the code and gives the results.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from farmhand import errors
from farmhand.home import paths, saved
from farmhand.model.settings import BY_NAME, SETTINGS, Setting, Value, checked, find, parsed

PROJECT_FILE: Final = "farmhand.toml"
_PYPROJECT: Final = "pyproject.toml"
_ROOTS: Final = (".git", ".hg", ".jj", ".svn")  # of a repository
_TOOL: Final = ("tool", "farmhand")
_POSITION: Final = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")
_HEADER: Final = re.compile(r"\s*\[+\s*(.+?)\s*\]+\s*(?:#.*)?$")
_KEY: Final = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*[=.]""")


class Source(enum.StrEnum):
    """Which layer a value is from."""

    DEFAULT = "default"
    SAVED = "saved"
    USER = "user"
    PROJECT = "project"
    VARIABLE = "variable"
    OPTION = "option"


class Settled(NamedTuple):
    """A value and where it came from: `place` is `file:line`, a variable, an option, or empty for a default."""

    value: Any
    source: Source = Source.DEFAULT
    place: str = ""

    @property
    def behind(self) -> str:
        """The place as the end of a message: ` (from FILE:3)`, or nothing."""
        return f" (from {self.place})" if self.place else ""


Layer = dict[str, Settled]


def user_file() -> Path:
    """The file of this user's settings."""
    return paths.home() / "config.toml"


def project_file(start: Path | None = None) -> Path | None:
    """The settings of the project that `start` (by default the current folder) is in; None when it has none."""
    try:
        here = start or Path.cwd()
    except OSError:  # the current folder is gone
        return None
    for folder in (here, *here.parents):
        for path in (folder / PROJECT_FILE, folder / _PYPROJECT):
            if _exists(path) and (path.name == PROJECT_FILE or _speaks_of_us(path)):
                return path
        if folder == Path.home() or any(_exists(folder / root) for root in _ROOTS):
            return None
    return None


def settle(command: str = "", given: Mapping[str, object] | None = None) -> dict[str, Settled]:
    """Each setting that `command` uses (all without one), from the layers and the options that were `given`.

    An option that is None, False or () was not given. Raises: `BadOption` that names the thing, the place and the way out.
    """
    wanted = [setting for setting in SETTINGS if not command or command in setting.used_by]
    layers = [_saved_layer(wanted), _file_layer(user_file(), Source.USER)]
    project = project_file()
    if project is not None:
        layers.append(_file_layer(project, Source.PROJECT))
    layers.append(_variables(wanted))
    found = {setting.name: Settled(setting.default) for setting in wanted}
    for layer in layers:
        found |= {name: settled for name, settled in layer.items() if name in found}
    for name, value in (given or {}).items():
        if name in found and not (value is None or value is False or value == ()):  # 0 is a value
            found[name] = Settled(value, Source.OPTION, BY_NAME[name].option)
    return found


def chosen_farm(given: str | None = None) -> str | None:
    """The address or join line of the farm that `given`, a name or an address, or else the settings mean; None for none.

    Raises: `BadAddress` for a name that is not saved, with those that are; `BadOption` for settings that cannot be read.
    """
    if given:
        return saved.address_of(given)
    settled = _settled_farm()
    return saved.address_of(settled.value, settled.place) if settled.value else None


def _settled_farm() -> Settled:
    """As `settle("Farm")["farm"]`, without looking into any file when the variable says it."""
    farm = BY_NAME["farm"]
    return _variables([farm]).get("farm") or settle("Farm")["farm"]


def export_server(settled: Mapping[str, Settled]) -> None:
    """Let what starts an engine find the nats-server that is settled: it reads the variable."""
    server = settled["nats_server"]
    if server.source is Source.USER:
        os.environ[BY_NAME["nats_server"].variable] = server.value


# ---- layers


def _saved_layer(wanted: list[Setting]) -> Layer:
    if not any(setting.name == "farm" for setting in wanted) or not _exists(saved.file()):
        return {}
    default = saved.load().default
    return {"farm": Settled(default, Source.SAVED, str(saved.file()))} if default else {}


def _variables(wanted: list[Setting]) -> Layer:
    """Empty counts as not set."""
    found: Layer = {}
    for setting in wanted:
        text = os.environ.get(setting.variable, "").strip()
        if text:
            try:
                found[setting.name] = Settled(parsed(setting, text), Source.VARIABLE, f"${setting.variable}")
            except errors.FarmhandError as error:
                raise errors.BadOption(f"${setting.variable}: {error}") from None
    return found


def _file_layer(path: Path, source: Source) -> Layer:
    """What a file settles. All of it is checked, also what nobody asks for now: a slip is found at once."""
    if not _exists(path):
        return {}
    text = _read(path)
    table = _TOOL if path.name == _PYPROJECT else ()
    found: Layer = {}
    for name, value in _parse(path, text, table).items():
        place = f"{path}:{_line_of(text, table, name)}"
        try:
            setting = find(name)
            checked_value = checked(setting, value)
            _check_allowed(setting, checked_value, source)
        except errors.FarmhandError as error:
            raise errors.BadOption(f"{place}: {error}") from None
        found[name] = Settled(checked_value, source, place)
    return found


def _check_allowed(setting: Setting, value: Value, source: Source) -> None:
    """Raise `BadOption` for what must not stand in a file of that kind. No message repeats a join line's token."""
    if source is Source.PROJECT and setting.owner_only:
        raise errors.BadOption(
            f"{setting.name} cannot be set by a project: {setting.owner_only}. Set it in {user_file()}, "
            f"with ${setting.variable}{f' or with {setting.option}' if setting.option else ''}"
        )
    if setting.name != "farm" or saved.is_name(str(value)):
        return
    if source is Source.PROJECT:
        raise errors.BadOption(
            "farm can only be a saved farm's name in a project: who runs a farm gets your code and gives the results, so "
            'you choose it yourself. Save it with `farmhand use NAME ADDRESS` and write farm = "NAME"'
        )
    if "@" in str(value):
        raise errors.BadOption(
            "farm is a join line, which is a secret. Run `farmhand use NAME 'LINE'` once and write farm = \"NAME\""
        )


# ---- files


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that we may not look into
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise errors.BadOption(f"{path}:{line}: it is not UTF-8, as TOML must be; save it as such") from None
    except OSError as error:
        raise errors.BadOption(f"{path} cannot be read: {error.strerror or error}") from None


def _speaks_of_us(path: Path) -> bool:
    """Whether a pyproject.toml has our table. One that is broken elsewhere is not ours to complain about."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    if "farmhand" not in text:
        return False
    import tomllib

    try:
        tool = tomllib.loads(text).get("tool", {})
    except (ValueError, RecursionError):
        return any(_header(line) == _TOOL for line in text.splitlines())
    return isinstance(tool, dict) and "farmhand" in tool


def _parse(path: Path, text: str, table: tuple[str, ...]) -> dict[str, Any]:
    import tomllib

    try:
        found: Any = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number or a nesting that Python does not bear
        at = _POSITION.search(str(error))
        line = at[1] if at and at[1] else str(text.count("\n") + 1)
        raise errors.BadOption(f"{path}:{line}: {_POSITION.sub('', str(error))}; it must be TOML") from None
    for part in table:
        found = found[part]
    if not isinstance(found, dict):
        raise errors.BadOption(f"{path}: {'.'.join(table)} must be a table: [{'.'.join(table)}]")
    return found


def _header(line: str) -> tuple[str, ...] | None:
    """The table that a line begins."""
    match = _HEADER.match(line)
    return tuple(part.strip().strip("\"'") for part in match[1].split(".")) if match else None


def _lines(text: str) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """Each line with its number and the table that it is in."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        table = _header(line) or table
        yield number, table, line


def _line_of(text: str, table: tuple[str, ...], name: str) -> int:
    """Where a key is set. tomllib does not say; so this looks for it, and takes the table's head for what it cannot find."""
    head = 1
    for number, inside, line in _lines(text):
        if inside[: len(table) + 1] == (*table, name):
            return number
        match = _KEY.match(line)
        if inside == table:
            head = number if _header(line) else head
            if match and match[1] == name:
                return number
    return head
