"""`farmhand bench`: how fast it is here, beside what else is installed."""

from __future__ import annotations

import click

from farmhand.cli.main import json_option


@click.command("bench")
@click.option(
    "--against",
    default="ppe",
    show_default=True,
    metavar="NAMES",
    help="What to measure beside Farmhand: ppe, loky, dask, ray, parsl. Nothing is installed.",
)
@json_option
@click.option("--markdown", is_flag=True, help="Print the table as the documentation has it.")
@click.option("--quick", is_flag=True, help="A rough look in under a minute.")
@click.pass_context
def command(ctx: click.Context, against: str, as_json: bool, markdown: bool, quick: bool) -> None:
    """Measure Farmhand and others in one run and print one table. Exit code 1 when a target was missed."""
    from farmhand.bench import main

    ctx.exit(main(against, as_json_document=as_json, as_markdown=markdown, quick=quick))
