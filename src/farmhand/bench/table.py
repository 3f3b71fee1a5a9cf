"""What was measured, as rows with their targets."""

from __future__ import annotations

from typing import Any, Final

import msgspec

NONE: Final = "-"


class Row(msgspec.Struct):
    """One line. `figures` by contender; `ratio` is Farmhand against `base`; `met` is None where no target is set."""

    what: str
    unit: str
    figures: dict[str, float]
    base: str = ""
    target: str = ""
    met: bool | None = None
    ratio: float | None = None


def compare(what: str, unit: str, figures: dict[str, float], *, at_least: float = 0.0, at_most: float = 0.0,
            against: float | None = None) -> Row:  # fmt: skip
    """A row whose target is a ratio to ProcessPoolExecutor: at least so many times its figure, or at most.

    `against` replaces the pool's own figure of this row as the base.
    """
    row = Row(what, unit, figures, base="ppe")
    base = against if against is not None else figures.get("ppe")
    if base and "farmhand" in figures:
        row.ratio = figures["farmhand"] / base
        if at_least:
            row.target, row.met = f">= {at_least:g} x pool", row.ratio >= at_least
        elif at_most:
            row.target, row.met = f"<= {at_most:g} x pool's p50", row.ratio <= at_most
    return row


def bound(what: str, unit: str, figure: float, *, at_least: float | None = None, at_most: float | None = None) -> Row:
    """A row about Farmhand alone, with an absolute target."""
    row = Row(what, unit, {"farmhand": figure})
    if at_least is not None:
        row.target, row.met = f">= {at_least:g}", figure >= at_least
    if at_most is not None:
        row.target, row.met = f"<= {at_most:g}", figure <= at_most
    return row


def say(figure: float | None) -> str:
    """A figure for people."""
    if figure is None:
        return NONE
    if figure >= 1000:
        return f"{figure:,.0f}"
    return f"{figure:.3g}"


def cells(row: Row, contenders: list[str]) -> list[str]:
    """A row's cells as text."""
    ratio = f"{row.ratio:.2f} x" if row.ratio is not None else NONE
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    return [
        row.what,
        row.unit,
        *(say(row.figures.get(name)) for name in contenders),
        ratio,
        row.target or NONE,
        verdict,
    ]


def headers(contenders: list[str]) -> list[str]:
    """The table's head."""
    return ["measure", "unit", *contenders, "ratio", "target", ""]


def markdown(rows: list[Row], contenders: list[str]) -> str:
    """The table for the documentation."""
    head = headers(contenders)
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    lines += ["| " + " | ".join(cells(row, contenders)) + " |" for row in rows]
    return "\n".join(lines)


def as_json(rows: list[Row], facts: dict[str, Any]) -> bytes:
    """The same for programs. Keys: `machine`, `rows`."""
    return msgspec.json.format(msgspec.json.encode({"machine": facts, "rows": rows}))
