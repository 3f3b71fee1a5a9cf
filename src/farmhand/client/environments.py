"""`env=`: what a user writes, read and checked once, as the recipe that nodes build from."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from farmhand import errors
from farmhand.code.hashing import content_hash
from farmhand.code.portable import check_portable
from farmhand.model import limits
from farmhand.model.environment import OLDEST, Recipe, is_version, too_old

if TYPE_CHECKING:
    from farmhand.client.link import Link

# What uv takes in a requirements file. `-r` and `-c` are read here; the others go on as they are.
_OPTIONS: Final = frozenset({
    "-e", "--editable", "-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--no-binary",
    "--only-binary",
})  # fmt: skip
_WITH_PATH: Final = frozenset({"-e", "--editable", "-f", "--find-links"})
_INCLUDES: Final = {"-r": False, "--requirement": False, "-c": True, "--constraint": True}
_NAMED: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\s*($|[\[<>=!~@;(]|--)")
_LOCAL: Final = re.compile(r"\.{0,2}/|[A-Za-z]:[\\/]|[a-z+]+://|\$\{")
_COMMENT: Final = re.compile(r"(^|\s)#.*$")
_NUMBERS: Final = re.compile(r"\s*\d[\d.]*\s*")  # meant for a version of Python, whether it is one or not
_DEPTH_MAX: Final = 20  # files that include files


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """An environment for tasks, for `env=`.

    requirements: a list of requirements, or the path of a requirements file. python: a version such as `"3.12"`; without one
    the node's own, which is the client's minor version. Checked when it is used.
    """

    requirements: Any = ()
    python: str = ""


def as_recipe(env: Any) -> Recipe | None:
    """The recipe of what was given as `env=`; None for the node's own Python. Raises `BadOption` that names what is wrong."""
    if isinstance(env, Environment):
        requirements, python = env.requirements, env.python
    elif isinstance(env, str) and _NUMBERS.fullmatch(env):
        requirements, python = (), env
    else:
        requirements, python = env, ""
    lines, constraints = _read(requirements)
    recipe = Recipe(requirements=lines, constraints=constraints, python=_checked_python(python), client=own_minor())
    if sum(map(len, (*lines, *constraints))) > limits.REQUIREMENTS_BYTES_MAX:
        raise errors.BadOption(f"env: the requirements are longer than {limits.REQUIREMENTS_BYTES_MAX // limits.MB} MB")
    return recipe if lines or recipe.python else None


def offer(driver: Link, recipe: Recipe | None) -> str:
    """Have the recipe stored before the work that names it. Its hash; empty when there is none."""
    if recipe is None:
        return ""
    blob = msgspec.json.encode(recipe)
    code = content_hash(blob)
    driver.sender.offer_code(code, blob)
    return code


def check_call(recipe: Recipe | None, *parts: Any) -> None:
    """Raise `OtherPython` when a part of a call would go as bytecode to another version of Python."""
    if recipe is not None and recipe.foreign:
        check_portable(parts, recipe.client, recipe.minor)


def checked_calls(recipe: Recipe | None, parts: Any, calls: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    """The calls, each checked as `check_call` does when its turn comes."""
    return calls if recipe is None or not recipe.foreign else _checked(recipe, parts, calls)


def _checked(recipe: Recipe, parts: Any, calls: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    for call in calls:
        check_call(recipe, parts, call)
        yield call


def own_minor() -> str:
    """This interpreter's minor version."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _checked_python(python: object) -> str:
    if not isinstance(python, str) or (python and not is_version(python)):
        raise errors.BadOption(f"env: python={python!r}: a version such as '3.12' or '3.12.4'")
    python = python.strip()
    if python and too_old(python):
        raise errors.BadOption(f"env: Farmhand's tasks need Python {'.'.join(map(str, OLDEST))} or newer, not {python}")
    return python


def _read(requirements: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines of requirements and those of constraints."""
    found: tuple[list[str], list[str]] = ([], [])
    if isinstance(requirements, str | os.PathLike):
        _read_file(Path(requirements), found, constraint=False, depth=0)
    elif isinstance(requirements, list | tuple):
        for line in requirements:
            if not isinstance(line, str) or not line.strip() or len(line.splitlines()) != 1:
                raise errors.BadOption(f"env: {line!r} is not a requirement; write for example 'numpy>=2'")
            _read_line(line.strip(), Path.cwd(), "", found, constraint=False, depth=0)
    else:
        raise errors.BadOption(
            f"env={requirements!r}: a list of requirements, a requirements file, a version of Python, or a farmhand.Environment"
        )
    return tuple(found[0]), tuple(found[1])


def _read_file(path: Path, found: tuple[list[str], list[str]], *, constraint: bool, depth: int) -> None:
    if path.suffix == ".toml":
        raise errors.BadOption(f"env: {path} is no requirements file; `uv export` makes one from a project")
    try:
        if path.stat().st_size > limits.REQUIREMENTS_BYTES_MAX or depth > _DEPTH_MAX:
            raise errors.BadOption(f"env: {path} is too large to be a requirements file, or includes itself")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        hint = f"; for one package write env=[{str(path)!r}]" if not path.suffix or "=" in str(path) else ""
        raise errors.BadOption(f"env: there is no requirements file {path}{hint}") from None
    except (OSError, ValueError) as error:
        raise errors.BadOption(f"env: {path} cannot be read: {error}") from None
    for number, line in _lines(text):
        _read_line(line, path.absolute().parent, f"{path}:{number}: ", found, constraint=constraint, depth=depth)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without comments; one that ends with a backslash goes on."""
    whole, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first if whole else number
        whole += line
        if whole.endswith("\\") and not whole.lstrip().startswith("#"):
            whole = whole[:-1].rstrip() + " "
            continue
        if bare := _COMMENT.sub("", whole).strip():
            yield first, bare
        whole = ""
    if bare := _COMMENT.sub("", whole).strip():
        yield first, bare


def _read_line(line: str, folder: Path, where: str, found: tuple[list[str], list[str]], *, constraint: bool,
               depth: int) -> None:  # fmt: skip
    """One line of a file, or one requirement of a list. Paths are made whole: the node has another current folder."""
    target = found[1] if constraint else found[0]
    if not line.startswith("-"):
        if not _NAMED.match(line) and not _LOCAL.match(line):
            raise errors.BadOption(f"env: {where}{line!r} is not a requirement; write for example 'numpy>=2'")
        target.append(_whole_path(line, folder))
        return
    option, value = _option(line)
    if option in _INCLUDES:
        _read_file(folder / value, found, constraint=constraint or _INCLUDES[option], depth=depth + 1)
        return
    if option not in _OPTIONS:
        raise errors.BadOption(f"env: {where}{option} is not an option that an environment can have")
    if option in _WITH_PATH and not _LOCAL.match(value):
        value = f"./{value}"
    found[0].append(f"{option} {_whole_path(value, folder)}".rstrip())


def _option(line: str) -> tuple[str, str]:
    """`-r file`, `-rfile`, `--requirement=file` as the option and its value."""
    if not line.startswith("--"):
        return line[:2], line[2:].strip()
    option, _, value = line.replace("=", " ", 1).partition(" ")
    return option, value.strip()


def _whole_path(text: str, folder: Path) -> str:
    return str(folder / text) if text.startswith(("./", "../")) else text
