"""`farmhand up`: runs a farm on this machine, in the foreground or detached."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from farmhand.cli.main import heed_verbose, json_option, log_options

if TYPE_CHECKING:
    from farmhand.node.host import HostConfig


@click.command("up")
@click.option("--detach", is_flag=True, help="Return when the farm is ready; it runs on in the background.")
@click.option(
    "--slots", type=click.IntRange(1), metavar="N", help="Slots in all, shared among the nodes.  [one per usable core]"
)
@click.option("--nodes", type=click.IntRange(0), metavar="N", help="Node agents on this machine.  [1]")
@click.option("--listen", metavar="HOST", help="Where the engine listens; off loopback it speaks TLS.  [127.0.0.1]")
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
    help="What stored work survives: the death of every process, or also a power cut (slower).  [process]",
)
@click.option(
    "--grace", type=click.FloatRange(0.0), metavar="S", help="Seconds for running tasks when the farm ends.  [10]"
)
@click.option(
    "--capability", "capabilities", multiple=True, metavar="K[=V]", help="What this machine's nodes can do; repeatable."
)
@click.option(
    "--cluster",
    "line",
    is_flag=False,
    flag_value="new",
    metavar="[LINE]",
    help="Be one of a cluster's three servers: the first without a LINE, the others with the first one's.",
)
@log_options
@json_option
def command(detach: bool, as_json: bool, verbose: bool, line: str | None, **given: Any) -> None:
    """Run a farm on this machine: an engine, a steward and a node.

    Its state is kept under $FARMHAND_HOME; Ctrl-C or `farmhand down` ends it in good order, a second Ctrl-C without
    waiting for what runs. It listens on loopback only unless --listen says otherwise. What is not given here is as
    `farmhand config` shows it.
    """
    config = _config(given, verbose=verbose)
    if line is not None:
        _become_server(config, line)
    if detach:
        from farmhand.cli.detached import start_detached

        show(start_detached(config), as_json)
        return
    from farmhand.cli.foreground import run_here

    run_here(config, lambda ready: show(ready, as_json), verbose=verbose)


def _config(given: dict[str, Any], *, verbose: bool) -> HostConfig:
    """What to run, by the options that were given and what is settled. Raises `BadOption`, `BadNeed`."""
    from farmhand import errors
    from farmhand.home import paths, settings
    from farmhand.node.host import HostConfig
    from farmhand.node.monitor import usable_cores

    checked_capabilities(given["capabilities"])
    heed_verbose(given, verbose=verbose)
    settled = settings.settle("up", given)
    settings.export_server(settled)
    values = {name: each.value for name, each in settled.items()}
    nodes: int = values["nodes"]
    total: int = values["slots"] or max(usable_cores(), nodes)
    if nodes > total:
        raise errors.BadOption(
            f"--nodes {nodes}{settled['nodes'].behind} with --slots {total}{settled['slots'].behind}: "
            "each node needs at least one slot"
        )
    config = HostConfig(
        folder=paths.default_farm().root,
        nodes=tuple(total // nodes + (1 if i < total % nodes else 0) for i in range(nodes)),
        listen=values["listen"].strip("[]"),
        insecure_plaintext=values["insecure_plaintext"],
        power=values["durability"] == "power",
        grace=values["grace"],
        capabilities=values["capabilities"],
        websocket_port=values["websocket"],
        log_level=values["log_level"],
    )
    if values["port"] is not None:
        config.port = values["port"]
    return config


def _become_server(config: HostConfig, line: str) -> None:
    """Make this machine a server of a cluster, unless it is one. Raises `BadOption`, and what joining raises."""
    from farmhand import errors
    from farmhand.cli.foreground import refuse_second
    from farmhand.home import cluster
    from farmhand.node.monitor import public_host

    if config.insecure_plaintext:
        raise errors.BadOption(
            "a cluster's servers give each other the farm's keys: --cluster does not go with --insecure-plaintext"
        )
    refuse_second(config)
    there = cluster.member(config.folder)
    if there is not None:
        if line != "new":
            raise errors.BadOption(
                f"{config.folder} is server {there.name} of a cluster already: start it with `farmhand up`, or set "
                "FARMHAND_HOME to a folder for another server"
            )
        return
    host, port = public_host(config.listen), max(config.port, 0)
    if line == "new":
        cluster.found(config.folder, config.listen, host, port)
    else:
        cluster.join(config.folder, line, config.listen, host, port)


def checked_capabilities(given: tuple[str, ...]) -> tuple[str, ...]:
    """Capabilities as they were given, if each has a name. Raises `BadNeed`."""
    from farmhand.model.settings import check_capability

    for text in given:
        check_capability(text)
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
    if ready["server"]:
        click.echo(
            f"  server     {ready['server']} of a cluster: {ready['cluster']['problem'] or 'two of three are enough'}"
        )
        click.echo(f"  server line  {ready['server_line']}")
        click.echo(
            "On each further server: farmhand up --cluster 'SERVER LINE'. It gives away the farm's keys: keep it secret."
        )
    if ready["local"]:
        click.echo("It listens on loopback, so only this machine can join; --listen 0.0.0.0 lets others in.")
    else:
        click.echo("On each further machine: farmhand join 'LINE'. Whoever has the line can join: keep it secret.")
