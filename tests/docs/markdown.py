"""Reads the pages of the documentation: their fenced blocks, links and tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RUN_LANGUAGES = ("python", "console", "sh")

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL
)
_MARKER = re.compile(r"<!-- no-run: (?P<reason>.+?) -->\s*\Z", re.DOTALL)
_FILE = re.compile(r"file=(\S+)")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block. `file`: it is a file's content; `reason`: why it is not run; `expected`: what it prints."""

    language: str
    text: str
    line: int
    file: str = ""
    reason: str = ""
    expected: str | None = None

    @property
    def runs(self) -> bool:
        return self.language in RUN_LANGUAGES and not self.reason


def pages() -> list[Path]:
    """Every page that users read."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. A `text` block right behind a `python` block is what that one prints."""
    source = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end_of_last = -1
    for match in _FENCE.finditer(source):
        before = source[: match.start()]
        line = before.count("\n") + 2
        indent = len(match["indent"])
        text = "".join(part[indent:] if part.strip() else "\n" for part in match["text"].splitlines(keepends=True))
        marker = _MARKER.search(before)
        file = _FILE.search(match["rest"])
        follows = found and found[-1].language == "python" and not source[end_of_last : match.start()].strip()
        if match["language"] == "text" and follows:
            found[-1] = found[-1]._replace(expected=text)
        else:
            reason = marker["reason"] if marker else ""
            found.append(Block(match["language"], text, line, file[1] if file else "", reason))
        end_of_last = match.end()
    return found


def without_blocks(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    return _LINK.findall(without_blocks(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(without_blocks(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


def section(page: Path, heading: str) -> str:
    """The text under a heading, up to the next of the same or a higher level."""
    source = page.read_text(encoding="utf-8")
    start = re.search(rf"^(#+) +{re.escape(heading)}\s*$", source, re.MULTILINE)
    assert start, f"{page_id(page)} has no heading {heading!r}"
    rest = source[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines[2:]]
