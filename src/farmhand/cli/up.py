"""`farmhand up`: runs a farm on this machine, in the foreground or detached."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from farmhand.cli.main import json_option

if TYPE_CHECKING:
    from farmhand.node.host import HostConfig


@click.command("up")
@click.option("--detach", is_flag=True, help="Return when the farm is ready; it runs on in the background.")
@click.option(
    "--slots", type=click.IntRange(1), metavar="N", help="Slots in all, shared among the nodes.  [one per usable core]"
)
@click.option(
    "--nodes", type=click.IntRange(0), default=1, show_default=True, metavar="N", help="Node agents on this machine."
)
@click.option(
    "--listen",
    default="127.0.0.1",
    show_default=True,
    metavar="HOST",
    help="Where the engine listens; off loopback it speaks TLS.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="P",
    help="The engine's port.  [that of the last run, else any free]",
)
@click.option(
    "--websocket",
    type=click.IntRange(1, 65535),
    metavar="P",
    help="A second port, for ws:// and wss:// addresses.  [none]",
)
@click.option("--insecure-plaintext", is_flag=True, help="No TLS off loopback: all that passes can be read.")
@click.option(
    "--durability",
    type=click.Choice(["process", "power"]),
    default="process",
    show_default=True,
    help="What stored work survives: the death of every process, or also a power cut (slower).",
)
@click.option(
    "--grace", type=click.FloatRange(0.0), metavar="S", help="Seconds for running tasks when the farm ends.  [10]"
)
@click.option(
    "--capability", "capabilities", multiple=True, metavar="K[=V]", help="What this machine's nodes can do; repeatable."
)
@json_option
def command(detach: bool, as_json: bool, **given: Any) -> None:
    """Run a farm on this machine: an engine, a steward and a node.

    Its state is kept under $FARMHAND_HOME; Ctrl-C or `farmhand down` ends it in good order, a second Ctrl-C without
    waiting for what runs. It listens on loopback only unless --listen says otherwise.
    """
    config = _config(**given)
    if detach:
        from farmhand.cli.detached import start_detached

        show(start_detached(config), as_json)
        return
    from farmhand.cli.foreground import run_here

    run_here(config, lambda ready: show(ready, as_json))


def _config(
    *,
    slots: int | None,
    nodes: int,
    listen: str,
    port: int | None,
    websocket: int | None,
    insecure_plaintext: bool,
    durability: str,
    grace: float | None,
    capabilities: tuple[str, ...],
) -> HostConfig:
    from farmhand import errors
    from farmhand.home import paths
    from farmhand.model import limits
    from farmhand.node.host import HostConfig
    from farmhand.node.monitor import usable_cores

    total = slots or max(usable_cores(), nodes)
    if nodes > total:
        raise errors.BadOption(f"--nodes {nodes} with --slots {total}: each node needs at least one slot")
    config = HostConfig(
        folder=paths.default_farm().root,
        nodes=tuple(total // nodes + (1 if i < total % nodes else 0) for i in range(nodes)),
        listen=listen.strip("[]"),
        insecure_plaintext=insecure_plaintext,
        power=durability == "power",
        grace=limits.GRACE_S if grace is None else grace,
        capabilities=checked_capabilities(capabilities),
        websocket_port=websocket,
    )
    if port is not None:
        config.port = port
    return config


def checked_capabilities(given: tuple[str, ...]) -> tuple[str, ...]:
    """Capabilities as they were given, if each has a name. Raises `BadNeed`."""
    from farmhand.model.needs import parse_need

    for text in given:
        parse_need(text.partition("=")[0])
    return given


def show(ready: dict[str, Any], as_json: bool) -> None:
    """Print where the farm is and how others join it."""
    if as_json:
        click.echo(json.dumps(ready))
        return
    for warning in ready["warnings"]:
        click.secho(f"Warning: {warning}", err=True, fg="yellow")
    click.echo(f"A farm runs in {ready['folder']} (process {ready['pid']}).")
    click.echo(f"  address    {ready['address']}")
    for other in ready["other_addresses"]:
        click.echo(f"             {other}")
    if ready["websocket"]:
        click.echo(f"  websocket  {ready['websocket']}")
    click.echo(f"  port       {ready['port']}, kept for the next start")
    click.echo(f"  nodes      {ready['nodes']} with {ready['slots']} slots in all")
    click.echo(f"  join line  {ready['join_line']}")
    if ready["local"]:
        click.echo("It listens on loopback, so only this machine can join; --listen 0.0.0.0 lets others in.")
    else:
        click.echo("On each further machine: farmhand join 'LINE'. Whoever has the line can join: keep it secret.")
