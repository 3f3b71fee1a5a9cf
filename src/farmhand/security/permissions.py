"""Which subjects each role may use: one table, enforced by the engine.

`{name}` stands for the user's own name, so that nobody can speak for another. `None` means no restriction within the
account. What subjects cannot enforce (a node can acknowledge a lane-mate's message) is caught by the attempt's token.
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple

from farmhand import errors

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Role(enum.StrEnum):
    """What a user is. STEWARD, CLIENT, NODE, JOIN and SERVER live in the account FARM, SYSTEM in SYS."""

    STEWARD = "steward"
    SYSTEM = "system"
    CLIENT = "client"
    NODE = "node"
    JOIN = "join"
    SERVER = "server"  # a further server of a cluster, before it has the farm's keys


class Permissions(NamedTuple):
    """Subjects a user may publish and subscribe to; None: all of its account's.

    `answers`: it may also publish to the reply subject of a request that it received. That is how a service answers
    without a right to write into every inbox.
    """

    publish: tuple[str, ...] | None
    subscribe: tuple[str, ...] | None
    answers: bool = False


_READ_BLOBS: Final = (
    "$JS.API.DIRECT.GET.BLOB",
    "$JS.API.DIRECT.GET.BLOB.>",
    "$JS.API.CONSUMER.CREATE.BLOB.>",
    "$JS.API.CONSUMER.DELETE.BLOB.>",
    "$JS.FC.>",  # the answers of an ordered consumer to flow control
)

_TABLE: Final[dict[Role, Permissions]] = {
    Role.STEWARD: Permissions(publish=None, subscribe=None),
    Role.SYSTEM: Permissions(publish=None, subscribe=None),
    Role.CLIENT: Permissions(
        publish=(
            "work.>",
            "blob.>",
            "bak.>",
            "fail.>",
            "ses.>",
            "ctl.>",
            "api.>",
            "$JS.API.CONSUMER.CREATE.RESULT.>",  # reading its reports
            "$JS.API.CONSUMER.DELETE.RESULT.>",
            "$JS.API.CONSUMER.CREATE.SESSION.>",  # reading what a named session has, and its outcomes
            "$JS.API.CONSUMER.DELETE.SESSION.>",
            "$JS.API.DIRECT.GET.SESSION",
            "$JS.API.CONSUMER.CREATE.LOG.>",  # what tasks printed
            "$JS.API.CONSUMER.DELETE.LOG.>",
            "$JS.API.STREAM.MSG.GET.RESULT",
            "$JS.API.STREAM.MSG.GET.BLOB",
            "$JS.API.STREAM.PURGE.RESULT",  # forgetting what it has read
            "$JS.API.STREAM.PURGE.WORK",  # withdrawing what waits
            "$JS.API.STREAM.PURGE.BLOB",
            "$JS.API.STREAM.INFO.>",
            "$JS.ACK.RESULT.>",
            *_READ_BLOBS,
        ),
        subscribe=("ses.>", "farm.>"),
    ),
    Role.NODE: Permissions(
        publish=(
            "$JS.API.CONSUMER.MSG.NEXT.WORK.>",
            "$JS.ACK.WORK.>",
            "res.*.{name}",
            "blob.*.>",
            "ses.*.run.{name}",
            "ses.*.out.{name}",
            "node.{name}.>",
            "api.>",
            *_READ_BLOBS,
        ),
        subscribe=("node.{name}.ctl", "ctl.>", "farm.>"),
        answers=True,
    ),
    Role.JOIN: Permissions(publish=("api.join",), subscribe=()),
    Role.SERVER: Permissions(publish=("server.join",), subscribe=()),
}


def check_name(name: str) -> None:
    """Raise `BadOption` unless `name` can be one token of a subject: 1 to 64 of A-Z a-z 0-9 _ and -."""
    if not _NAME.fullmatch(name):
        raise errors.BadOption(f"the name {name[:80]!r} will not do: write 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")


def inbox_prefix(role: Role, name: str) -> str:
    """Where answers to this user's requests go, without a dot at its end. Nobody else may subscribe below it."""
    check_name(name)
    return f"_INBOX.{role}.{name}"


def permissions(role: Role, name: str) -> Permissions:
    """What this user may do, with its name filled in. Raises `BadOption` for a name that cannot be in a subject."""
    check_name(name)
    rights = _TABLE[role]
    if rights.publish is None or rights.subscribe is None:
        return rights
    return Permissions(
        tuple(subject.replace("{name}", name) for subject in rights.publish),
        (inbox_prefix(role, name) + ".>", *(subject.replace("{name}", name) for subject in rights.subscribe)),
        rights.answers,
    )
