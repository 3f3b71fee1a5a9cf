"""Runs the demo on a farm and shows it on a terminal.

It needs nothing of the farm but what each `concurrent.futures.Executor` has. What the nodes do comes through a small
callable, so that the demo knows no more of a farm's status than it prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from farmhand.demo.picture import render_picture
from farmhand.demo.stdlib_survey import FileFacts, Findings, analyse, merge, python_files

# How often the terminal shows what the nodes do; asking more often only costs the farm time.
ACTIVITY_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class NodeActivity:
    """What one node does: its slots, how many of them are busy, and how many tasks it has finished."""

    name: str
    slots: int
    busy: int
    done: int


@dataclass(frozen=True, slots=True)
class DemoReport:
    """How the demo went. `same` is whether farm and serial run agree; times are in seconds."""

    findings: Findings
    same: bool
    farm_seconds: float
    serial_seconds: float
    picture: Path

    @property
    def tasks_per_second(self) -> float:
        """Files analysed a second on the farm."""
        return self.findings.files / self.farm_seconds

    @property
    def speed_up(self) -> float:
        """How many times faster the farm was than the serial run."""
        return self.serial_seconds / self.farm_seconds


Activity = Callable[[], Sequence[NodeActivity]]


def run(
    farm: Executor,
    console: Console,
    *,
    activity: Activity | None = None,
    picture: Path = Path("mandelbrot.png"),
    picture_width: int = 960,
) -> DemoReport:
    """Surveys the standard library on a farm, checks the findings against a serial run, and renders a picture.

    Args:
        farm: where the tasks run. Any executor that gets at the functions of a module that is not installed: a farm
            ships them, threads have them.
        console: where it is shown; without a terminal there is no moving progress bar.
        activity: tells what each node does at this moment.
        picture: where the PNG goes.
        picture_width: the picture's width in pixels; its height is two thirds of it.

    Raises:
        OSError: the picture cannot be written.
    """
    files = python_files()
    console.print(f"Analysing the {len(files):,} Python files of the standard library, one task each.")
    start = time.perf_counter()
    on_farm = merge(_watched("farm", farm.map(analyse, files), len(files), console, activity))
    farm_seconds = time.perf_counter() - start
    start = time.perf_counter()
    serial = merge(_watched("serial", map(analyse, files), len(files), console, None))
    serial_seconds = time.perf_counter() - start
    console.print(findings_table(on_farm))
    written = render_picture(farm, picture, width=picture_width)
    report = DemoReport(on_farm, on_farm == serial, farm_seconds, serial_seconds, written)
    _print_verdict(report, console)
    return report


def findings_table(findings: Findings) -> Table:
    """The findings as people read them."""
    table = Table(title="The standard library", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim", overflow="fold")
    skipped = (
        f"{findings.undecodable} cannot be decoded, {findings.unparsable} are not valid Python (tests of the parser)"
    )
    table.add_row("files", f"{findings.files:,}", skipped)
    table.add_row("lines", f"{findings.lines:,}", "")
    table.add_row("functions", f"{findings.functions:,}", "")
    table.add_row("classes", f"{findings.classes:,}", "")
    longest = findings.longest
    table.add_row("longest function", f"{longest.lines:,} lines", f"{longest.name} in {longest.file}")
    table.add_row("deepest nesting", f"{findings.deepest[0]} blocks", findings.deepest[1])
    table.add_section()
    for place, (lines, file) in enumerate(findings.largest):
        table.add_row("" if place else "largest files", f"{lines:,} lines", file)
    table.add_section()
    for place, (module, files) in enumerate(findings.most_imported):
        table.add_row("" if place else "most imported", f"{files:,} files", module)
    return table


def _watched(
    title: str, facts: Iterable[FileFacts], total: int, console: Console, activity: Activity | None
) -> Iterator[FileFacts]:
    """Passes the facts on while a progress bar and the nodes' activity follow them."""
    progress = Progress(
        TextColumn("{task.description:>7}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>7,.0f} tasks/s"),
        TimeElapsedColumn(),
        console=console,
    )
    bar = progress.add_task(title, total=total, rate=0.0)
    started = shown = time.perf_counter()
    done = 0

    def show() -> None:
        progress.update(bar, completed=done, rate=done / max(time.perf_counter() - started, 1e-9))
        live.update(Group(progress, _activity_table(activity())) if activity else progress)

    with Live(progress, console=console, refresh_per_second=1 / ACTIVITY_SECONDS) as live:
        for each in facts:
            done += 1
            if time.perf_counter() - shown > ACTIVITY_SECONDS:
                shown = time.perf_counter()
                show()
            yield each
        show()
    if not console.is_terminal:
        # There the last state is printed without the end of its line.
        console.print()


def _activity_table(nodes: Sequence[NodeActivity]) -> Table:
    table = Table(box=None, padding=(0, 2))
    for heading in ("node", "slots", "busy", "done"):
        table.add_column(heading, justify="left" if heading == "node" else "right")
    for node in nodes:
        table.add_row(node.name, str(node.slots), "●" * node.busy + "○" * (node.slots - node.busy), f"{node.done:,}")
    return table


def _print_verdict(report: DemoReport, console: Console) -> None:
    if report.same:
        console.print("[green]The farm's findings equal those of a serial run in this process.[/green]")
    else:
        console.print("[red bold]The farm's findings differ from those of a serial run in this process.[/red bold]")
    console.print(
        f"farm {report.farm_seconds:.1f} s ({report.tasks_per_second:,.0f} tasks/s), "
        f"serial {report.serial_seconds:.1f} s: speed-up {report.speed_up:.2f}"
    )
    # Soft wrap: a path that is broken over two lines cannot be copied.
    console.print(f"The picture is at {report.picture}", soft_wrap=True, highlight=False)
