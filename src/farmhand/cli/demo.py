"""`farmhand demo`: real work on a small farm, and a proof that its answer is right."""

from __future__ import annotations

from pathlib import Path

import click

from farmhand.cli.exits import Exit

_NODES = 2


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="mandelbrot.png",
    show_default=True,
    metavar="FILE",
    help="Where the picture goes.",
)
@click.option(
    "--width",
    type=click.IntRange(60, 8000),
    default=960,
    show_default=True,
    metavar="PIXELS",
    help="The picture's width.",
)
@click.pass_context
def command(ctx: click.Context, out: Path, width: int) -> None:
    """Analyse every Python file of the standard library on a farm of one engine and two nodes, check that the findings
    equal a serial run, and render a picture by tiles.
    """
    from rich.console import Console

    from farmhand import Farm
    from farmhand.demo import NodeActivity, run
    from farmhand.node.monitor import usable_cores

    console = Console()
    with Farm(max_workers=max(_NODES, usable_cores()), nodes=_NODES) as farm:

        def activity() -> list[NodeActivity]:
            nodes = sorted(farm.status()["nodes"], key=lambda node: str(node["name"]))
            return [NodeActivity(node["name"], node["slots"], node["busy"], node["runs"]) for node in nodes]

        report = run(farm, console, activity=activity, picture=out, picture_width=width)
    ctx.exit(Exit.OK if report.same else Exit.FAILED)
