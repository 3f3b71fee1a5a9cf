"""The parts of the documentation that are made from the code: `python tests/docs/generated.py` writes them anew."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "src" / "farmhand"
LIMITS: Final = SOURCE / "model" / "limits.py"
COMMAND: Final = "python tests/docs/generated.py"
_HEAD = ("| limit | default | reason |", "| --- | --- | --- |")
_LIMIT = re.compile(r"^(?P<name>[A-Z_]+): Final = (?P<value>[^#\n]+?)(?:  # (?P<reason>.*))?$")


def limits_tables() -> str:
    """Every constant of `model/limits.py`, by its headings."""
    lines: list[str] = []
    for line in LIMITS.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ---- "):
            heading = line.removeprefix("# ---- ")
            lines += ["", f"## {heading[0].upper()}{heading[1:]}", "", *_HEAD]
        elif (match := _LIMIT.match(line)) and lines:
            value = match["value"].replace(" * MB", " MiB").replace("*", "×")
            lines.append(f"| `{match['name']}` | {value} | {match['reason'] or ''} |")
    return "\n".join(lines).strip() + "\n"


def code_map() -> str:
    """Each package with its modules, and what the first sentence of each docstring says."""
    lines: list[str] = []
    for package in sorted(path for path in SOURCE.iterdir() if (path / "__init__.py").exists()):
        modules = [path for path in sorted(package.glob("*.py")) if path.name != "__init__.py"]
        if modules:
            lines += ["", f"**`{package.name}/`** {_first_sentence(package / '__init__.py')}", ""]
            lines += [f"- `{module.name}`: {_first_sentence(module)}" for module in modules]
    return "\n".join(lines).strip() + "\n"


def _first_sentence(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(doc.partition("\n\n")[0].split())
    return re.split(r"(?<=\w\w\.)\s", paragraph, maxsplit=1)[0]


def error_tree() -> str:
    """The tree in the docstring of `errors.py`."""
    doc = ast.get_docstring(ast.parse((SOURCE / "errors.py").read_text(encoding="utf-8"))) or ""
    tree = [line.removeprefix("    ") for line in doc.splitlines() if line.startswith("    ")]
    return "\n".join(["```text", *tree, "```", ""])


PARTS: Final[dict[str, tuple[Path, Callable[[], str]]]] = {
    "limits": (ROOT / "docs" / "reference" / "limits.md", limits_tables),
    "errors": (ROOT / "docs" / "reference" / "python.md", error_tree),
    "code map": (ROOT / "docs" / "ARCHITECTURE.md", code_map),
}


def with_part(page: str, name: str, content: str) -> str:
    """The page with the part of that name replaced."""
    begin, end = f"<!-- {name}: made by {COMMAND} -->\n", f"<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    assert closed, f"the page has no place for {name!r}"
    return f"{before}{begin}\n{content}\n{end}{after}"


if __name__ == "__main__":
    for name, (path, make) in PARTS.items():
        path.write_text(with_part(path.read_text(encoding="utf-8"), name, make()), encoding="utf-8")
