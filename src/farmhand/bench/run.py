"""Runs the measures and shows the table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from farmhand import errors
from farmhand.bench import joblib_row, solo, tree, workloads
from farmhand.bench.contenders import CONTENDERS, installed
from farmhand.bench.table import Row, as_json, bound, cells, compare, headers, markdown

SLOTS: Final = 2
NAPS: Final = (
    (0.001, 4000, 85),
    (0.010, 800, 95),
    (0.100, 100, 99),
)  # seconds, calls, target in per cent of a bare loop
ROOM: Final = 4  # a contender's share of the calls in a quick run is a quarter

Figures = dict[str, dict[str, float]]
Say = Callable[[str], None]


def main(against: str = "ppe", *, as_json_document: bool = False, as_markdown: bool = False, quick: bool = False,
         slots: int = SLOTS) -> int:  # fmt: skip
    """Measure, print the table, and return 1 when a target was missed.

    against: contenders by name, separated by commas; those that are not installed are named and left out.
    Raises: `BadOption` for an unknown name.
    """
    names = ["farmhand", *_chosen(against)]

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    figures: Figures = {}
    for name in list(names):
        say(f"measuring {CONTENDERS[name].title} ...")
        try:
            measured = _measure_contender(name, slots, quick)
        except Exception as error:
            if name == "farmhand":
                raise
            say(f"{CONTENDERS[name].title} failed and is left out: {type(error).__name__}: {error}")
            names.remove(name)
            continue
        for key, figure in measured.items():
            figures.setdefault(key, {})[name] = figure
    rows = _compared(figures) + _alone(slots, quick, say)
    _show(rows, names, as_json_document=as_json_document, as_markdown=as_markdown)
    return 1 if any(row.met is False for row in rows) else 0


def _chosen(against: str) -> list[str]:
    wanted = [name.strip() for name in against.split(",") if name.strip() and name.strip() != "farmhand"]
    if unknown := [name for name in wanted if name not in CONTENDERS]:
        raise errors.BadOption(f"unknown contender {', '.join(unknown)}; one of {', '.join(CONTENDERS)}")
    absent = [name for name in wanted if not installed(name)]
    if absent:
        sys.stderr.write(f"not installed, left out: {', '.join(absent)}\n")
    return [name for name in wanted if name not in absent]


def _measure_contender(name: str, slots: int, quick: bool) -> dict[str, float]:
    """Every measure that works with any executor."""
    contender = CONTENDERS[name]
    with contender.open(slots) as executor:
        found = _measure(executor, contender.calls // (ROOM if quick else 1), slots, quick)
        if name in tree.WAYS:
            found["nested"] = workloads.best(lambda: tree.tree_rate(executor, name), 1 if quick else workloads.REPEATS)
        if contender.feeds:
            steps = workloads.STEPS // (ROOM if quick else 1)
            found["chain"] = workloads.chain_rate(executor, steps)
            found["tree"] = workloads.tree_rate(executor, steps // 2)
        return found


def _measure(executor: Any, calls: int, slots: int, quick: bool) -> dict[str, float]:
    workloads.warm(executor)
    repeats = 1 if quick else workloads.REPEATS
    found = {
        "submit": workloads.best(lambda: workloads.submit_rate(executor, calls), repeats),
        "map": workloads.best(lambda: workloads.map_rate(executor, calls), repeats),
    }
    found["p50"], found["p99"] = workloads.latencies(executor, min(2000, calls))
    found["argument"] = workloads.best(lambda: workloads.argument_rate(executor), repeats)
    found["result"] = workloads.best(lambda: workloads.result_rate(executor), repeats)
    found["sharing"] = workloads.best(lambda: workloads.sharing_rate(executor), repeats)
    for seconds, count, _ in NAPS:
        calls = count // (ROOM if quick else 1) // slots * slots  # an odd one out would leave slots idle at the end
        share = max(workloads.nap_share(executor, seconds, calls, slots) for _ in range(repeats))
        found[f"nap {seconds}"] = 100 * share
    return found


def _compared(figures: Figures) -> list[Row]:
    pool_p50 = figures["p50"].get("ppe")
    rows = [
        compare("no-op calls through submit, every one stored", "calls/s", figures["submit"], at_least=4),
        compare("no-op calls through map, no chunksize", "calls/s", figures["map"], at_least=4),
        compare("one call at a time, p50", "us", figures["p50"], at_most=6),
        compare("one call at a time, p99", "us", figures["p99"], at_most=10, against=pool_p50),
        compare("64 MB argument, same machine", "MB/s", figures["argument"], at_least=1.5),
        compare("64 MB result, same machine", "MB/s", figures["result"], at_least=1.5),
    ]
    rows += [
        compare("20 calls with the same 40 MB", "calls/s", figures["sharing"], at_least=1.5),
        compare("chain of calls, each with the future before it", "calls/s", figures.get("chain", {})),
        compare("tree of calls, joined by their futures", "calls/s", figures.get("tree", {})),
        compare("tree of 1,000 leaves, submitted by its tasks", "leaves/s", figures.get("nested", {})),
    ]
    for seconds, _, target in NAPS:
        bare = 100 * workloads.bare_share(seconds, max(20, int(1 / seconds)))
        found = figures[f"nap {seconds}"]
        row = Row(
            f"naps of {seconds * 1000:g} ms: share of the slots' time",
            "%",
            found,
            target=f">= {target} % of a bare loop",
        )
        row.ratio = found["farmhand"] / bare
        row.met = row.ratio >= target / 100
        rows.append(row)
    return rows


def _alone(slots: int, quick: bool, say: Say) -> list[Row]:
    """Farmhand by itself, against absolute targets."""
    say("measuring start-up and memory ...")
    ready = min(solo.in_process("start", slots)["seconds"] for _ in range(3))
    nothing = solo.command_seconds(sys.executable, "-c", "pass")
    imported = solo.command_seconds(sys.executable, "-c", "import farmhand") - nothing
    helped = solo.command_seconds(sys.executable, "-m", "farmhand.cli", "--help")
    parts = solo.in_process("memory", slots)
    rows = [
        bound("Farm() to its first result", "s", ready, at_most=0.7),
        bound("import farmhand", "s", imported, at_most=0.1),
        bound("farmhand --help", "s", helped, at_most=0.2),
        bound("memory of the node agent", "MB", parts["node"], at_most=60),
        bound("memory of an idle slot", "MB", parts["slot"], at_most=35),
        bound("memory of the steward", "MB", parts["steward"], at_most=80),
    ]
    say("measuring the network path ...")
    path = solo.in_process("network", slots)
    rows.append(bound("64 MB argument through the engine", "MB/s", path["argument"], at_least=400))
    rows.append(bound("64 MB result through the engine", "MB/s", path["result"], at_least=400))
    size = solo.SCATTERED_MB // (ROOM if quick else 1)
    say(f"measuring a scatter of {size} MB to two nodes ...")
    scattered = solo.in_process("scattered", size)
    rows.append(bound(f"{size} MB scattered, used on two nodes, same machine", "s", scattered["local"]))
    rows.append(bound(f"{size} MB scattered, used on two nodes, through the engine", "s", scattered["network"]))
    if joblib_row.installed():
        say("measuring joblib ...")
        rows += joblib_row.rows(solo.in_process("joblib", slots))
    return rows + _servers(slots, say) + _huge(slots, quick, say)


def _servers(slots: int, say: Say) -> list[Row]:
    """Three servers beside one. No target: it is a price, which the ratio tells."""
    say("measuring three servers beside one ...")
    figures = solo.in_process("servers", slots)
    rows = []
    for key, what, unit in (
        ("submit", "three servers: no-op calls through submit, beside one server", "calls/s"),
        ("map", "three servers: no-op calls through map, beside one server", "calls/s"),
        ("p50", "three servers: one call at a time, p50, beside one server", "us"),
    ):
        row = Row(what, unit, {"farmhand": figures["three"][key]}, base="one server")
        row.ratio = figures["three"][key] / figures["one"][key]
        rows.append(row)
    return rows


def _huge(slots: int, quick: bool, say: Say) -> list[Row]:
    calls = solo.MILLION // (10 if quick else 1)
    say(f"measuring {calls:,} calls of a generator ...")
    many = solo.in_process("million", slots, calls)
    rows = [
        bound(f"{calls:,} calls by map over a generator", "calls/s", many["rate"], at_least=40_000),
        bound("  largest client", "MB", many["peak"]["client"], at_most=400),
        bound("  largest engine", "MB", many["peak"]["engine"], at_most=400),
        bound("  client's growth each 100,000 more", "MB", many["growth"]["client"], at_most=1),
        bound("  engine's growth each 100,000 more", "MB", many["growth"]["engine"], at_most=1),
    ]
    say(f"measuring {calls:,} calls in a named session ...")
    kept = solo.in_process("session", slots, calls)
    rows += [
        bound(
            f"{calls:,} calls submitted to a named session, until stored", "calls/s", kept["stored"], at_least=30_000
        ),
        bound("  until done", "calls/s", kept["done"]),
        bound("  engine afterwards", "MB", kept["engine"], at_most=400),
        bound("  attaching to it, until the first result", "s", kept["attached"], at_most=1),
    ]
    if quick:
        return rows
    say(f"measuring objects of {solo.GIGABYTES} GB ...")
    big = solo.in_process("gigabytes", slots)
    return [
        *rows,
        bound(f"{solo.GIGABYTES} GB argument", "MB/s", big["argument"]),
        bound(f"{solo.GIGABYTES} GB result", "MB/s", big["result"]),
        bound("  client above the object itself", "MB", big["client_above"], at_most=200),
        bound("  agent above its usual size", "MB", big["node_above"], at_most=200),
    ]


def _show(rows: list[Row], names: list[str], *, as_json_document: bool, as_markdown: bool) -> None:
    if as_json_document:
        sys.stdout.write(as_json(rows, solo.machine()).decode() + "\n")
    elif as_markdown:
        sys.stdout.write(markdown(rows, names) + "\n")
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"Farmhand on {SLOTS} slots")
        for number, head in enumerate(headers(names)):
            table.add_column(head, justify="left" if number < 2 else "right")
        for row in rows:
            table.add_row(*cells(row, names))
        Console().print(table)
