"""Who gets in to a real server, and what each role may do there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farmhand.engine.broker import Broker
from farmhand.security.accounts import JOIN_USER, User, UserStore
from farmhand.security.nkeys import KeyPair
from farmhand.security.permissions import Role

NOT_ALLOWED = "Permissions Violation"

# ---- who gets in


@pytest.mark.parametrize("role", list(Role))
def test_each_role_gets_in_with_its_own_credential(broker: Broker, role: Role, raw: Any) -> None:
    raw(broker, role).close()


def test_nobody_else_gets_in(broker: Broker, raw: Any, keys: dict[Role, KeyPair], subtests: pytest.Subtests) -> None:
    client = keys[Role.CLIENT]
    credentials: dict[str, dict[str, Any]] = {
        "nothing": {},
        "unknown key": {"key": KeyPair.generate()},
        "no signature": {"nkey": client.public},
        "old signature": {"nkey": client.public, "sig": client.sign(b"the nonce of another connection")},
        "foreign signature": {"nkey": client.public, "sig": KeyPair.generate().sign(b"x")},
        "wrong token": {"user": JOIN_USER, "pass": "a wrong token"},
        "no token": {"user": JOIN_USER, "pass": ""},
        "empty": {"user": "", "pass": ""},
    }
    for what, credential in credentials.items():
        with subtests.test(what), pytest.raises(raw.Refused, match="Authorization Violation"):
            raw(broker, **credential)


def test_a_reload_lets_in_who_was_enrolled_puts_out_who_was_removed_and_leaves_the_others_alone(
    tmp_path: Path, raw: Any, config_in: Any
) -> None:
    with Broker(config_in(tmp_path)) as broker, raw(broker, Role.SYSTEM) as system, raw(broker, Role.NODE) as other:
        store, key = UserStore(tmp_path, durable=False), KeyPair.generate()
        reload = f"$SYS.REQ.SERVER.{system.info['server_id']}.RELOAD"
        other.listen("ctl.>")
        with pytest.raises(raw.Refused):
            raw(broker, Role.NODE, key=key, name="n2")
        store.add(User(role=Role.NODE, name="n2", public_key=key.public))
        assert "error" not in system.ask(reload)
        with raw(broker, Role.NODE, key=key, name="n2") as node:
            node.tell("node.n2.beat")
            store.remove(Role.NODE, "n2")
            assert "error" not in system.ask(reload)
            assert node.line() == "" or node.line() == "", "the connection ends, perhaps with a last word"
        with pytest.raises(raw.Refused):
            raw(broker, Role.NODE, key=key, name="n2")
        with raw(broker, Role.CLIENT) as client:
            client.tell("ctl.s1", "still there?")
        assert other.next()[2] == "still there?"


# ---- what each may do

INFO_RESULT = "$JS.API.STREAM.INFO.RESULT"
MAY_PUBLISH = [
    (Role.JOIN, "api.join", True),
    (Role.JOIN, "api.status", False),
    (Role.JOIN, "work.lane.s1", False),
    (Role.JOIN, "$JS.API.INFO", False),
    (Role.SERVER, "server.join", True),
    (Role.SERVER, "api.join", False),
    (Role.SERVER, "keep.users", False),
    (Role.JOIN, "server.join", False),
    (Role.NODE, "server.join", False),
    (Role.CLIENT, "server.join", False),
    *(
        (role, subject, False)
        for role in (Role.NODE, Role.CLIENT)
        for subject in (
            "keep.users",
            "keep.lease",
            "keeper.users",
            "$JS.API.STREAM.MSG.GET.KEEP",
            "$JS.API.CONSUMER.CREATE.KEEP.c.keep.users",
            "$JS.API.DIRECT.GET.KEEP.keep.users",
            "$JS.API.SERVER.REMOVE",
            "res.farm.=term",
        )
    ),
    (Role.NODE, "res.s1.n1", True),
    (Role.NODE, "res.s1.n2", False),
    (Role.NODE, "res.s1.n1.more", False),
    (Role.NODE, "node.n1.beat", True),
    (Role.NODE, "node.n2.beat", False),
    (Role.NODE, "ses.s1.run.n1", True),
    (Role.NODE, "ses.s1.out.n2", False),
    (Role.NODE, "ses.s1.beat", False),
    (Role.NODE, "work.lane.s1", False),
    (Role.NODE, "ctl.s1", False),
    (Role.NODE, "farm.gone", False),
    (Role.NODE, "_INBOX.client.ann.1", False),
    (Role.NODE, "_INBOX.steward.steward.1", False),
    (Role.NODE, "$JS.API.CONSUMER.MSG.NEXT.WORK.lane-1", True),
    (Role.NODE, "$JS.API.CONSUMER.MSG.NEXT.RESULT.c", False),
    (Role.NODE, "$JS.ACK.WORK.lane-1.1.1.1.1.0", True),
    (Role.NODE, "$JS.API.STREAM.PURGE.WORK", False),
    (Role.NODE, "$JS.API.STREAM.DELETE.WORK", False),
    (Role.NODE, "$JS.API.CONSUMER.CREATE.WORK.c.work.>", False),
    (Role.NODE, "$JS.API.CONSUMER.CREATE.RESULT.c.res.>", False),
    (Role.CLIENT, "work.lane.s1", True),
    (Role.CLIENT, "res.s1.n1", False),
    (Role.CLIENT, "node.n1.ctl", False),
    (Role.CLIENT, "farm.gone", False),
    (Role.CLIENT, "$JS.API.STREAM.DELETE.WORK", False),
    (Role.CLIENT, "$JS.API.STREAM.CREATE.MINE", False),
    (Role.CLIENT, "$JS.API.CONSUMER.MSG.NEXT.WORK.lane-1", False),
    (Role.CLIENT, "$JS.ACK.WORK.lane-1.1.1.1.1.0", False),
    (Role.STEWARD, "farm.gone", True),
    (Role.STEWARD, "node.n1.ctl", True),
]
MAY_SUBSCRIBE = [
    (Role.JOIN, "api.join", False),
    (Role.JOIN, ">", False),
    (Role.NODE, "node.n1.ctl", True),
    (Role.NODE, "node.n2.ctl", False),
    (Role.NODE, "ctl.>", True),
    (Role.NODE, "farm.lanes", True),
    (Role.NODE, "work.>", False),
    (Role.NODE, "res.>", False),
    (Role.NODE, "api.join", False),
    (Role.NODE, "_INBOX.>", False),
    (Role.NODE, "_INBOX.node.n2.>", False),
    (Role.CLIENT, "ses.s1.run.*", True),
    (Role.CLIENT, "farm.lanes", True),
    (Role.CLIENT, "res.>", False),
    (Role.CLIENT, "ctl.>", False),
    (Role.CLIENT, "api.>", False),
    (Role.CLIENT, "server.join", False),
    (Role.NODE, "server.join", False),
    (Role.SERVER, "server.join", False),
    (Role.CLIENT, "_INBOX.steward.>", False),
    (Role.STEWARD, ">", True),
]


@pytest.mark.parametrize(("role", "subject", "allowed"), MAY_PUBLISH)
def test_publishing(broker: Broker, role: Role, subject: str, allowed: bool, raw: Any) -> None:
    with raw(broker, role) as who:
        check(raw, lambda: who.tell(subject), allowed)


@pytest.mark.parametrize(("role", "subject", "allowed"), MAY_SUBSCRIBE)
def test_subscribing(broker: Broker, role: Role, subject: str, allowed: bool, raw: Any) -> None:
    with raw(broker, role) as who:
        check(raw, lambda: who.listen(subject), allowed)


@pytest.mark.parametrize("role", list(Role))
def test_each_listens_to_its_own_inbox(broker: Broker, role: Role, raw: Any) -> None:
    with raw(broker, role) as who:
        who.listen(f"{who.inbox}.a.b")


def check(raw: Any, action: Callable[[], object], allowed: bool) -> None:
    if allowed:
        action()
    else:
        with pytest.raises(raw.Refused, match=NOT_ALLOWED):
            action()


def test_a_node_answers_what_it_was_asked_and_cannot_write_elsewhere(broker: Broker, raw: Any) -> None:
    with raw(broker, Role.NODE) as node, raw(broker, Role.STEWARD) as steward:
        node.listen("node.n1.ctl")
        steward.listen("_INBOX.steward.steward.7")
        steward.put("node.n1.ctl", "how are you", "_INBOX.steward.steward.7")
        _, reply, question = node.next()
        assert question == "how are you"
        node.tell(reply, "well")
        assert steward.next()[2] == "well"
        with pytest.raises(raw.Refused, match=NOT_ALLOWED):
            node.tell("_INBOX.steward.steward.8", "forged")


def test_a_task_makes_its_way_under_these_rights(broker: Broker, raw: Any) -> None:
    """The steward makes a lane, the client publishes, the node pulls, reports and acknowledges, the client reads."""
    with raw(broker, Role.STEWARD) as steward, raw(broker, Role.CLIENT) as client, raw(broker, Role.NODE) as node:
        config = {"name": "lane-a", "durable_name": "lane-a", "ack_policy": "explicit", "filter_subject": "work.a.*"}
        assert "error" not in steward.ask(
            "$JS.API.CONSUMER.CREATE.WORK.lane-a.work.a.*", json.dumps({"stream_name": "WORK", "config": config})
        )
        assert client.ask("work.a.s9", "the task")["stream"] == "WORK"
        node.listen(f"{node.inbox}.pull")
        node.put("$JS.API.CONSUMER.MSG.NEXT.WORK.lane-a", '{"batch": 1}', f"{node.inbox}.pull")
        subject, ack, task = node.next()
        assert (subject, task) == ("work.a.s9", "the task")
        assert node.ask("res.s9.n1", "the report")["stream"] == "RESULT"
        node.tell(ack, "+ACK")
        reader = {"name": "r1", "deliver_subject": f"{client.inbox}.o", "ack_policy": "none", "flow_control": True,
                  "idle_heartbeat": 5_000_000_000, "filter_subject": "res.s9.*"}  # fmt: skip
        client.listen(f"{client.inbox}.o")
        client.put(
            "$JS.API.CONSUMER.CREATE.RESULT.r1.res.s9.*", json.dumps({"stream_name": "RESULT", "config": reader})
        )
        assert client.next()[2] == "the report"
        with pytest.raises(raw.Refused, match=NOT_ALLOWED):
            node.tell("$JS.API.STREAM.PURGE.RESULT")
