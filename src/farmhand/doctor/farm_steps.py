"""Checks of a running farm: the engine, who gets in, streams, steward, nodes, slots, and a real task."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import secrets
from typing import Any, Final

from farmhand import errors
from farmhand.client.farm import Farm
from farmhand.doctor.checks import Fault
from farmhand.doctor.patient import Patient, process_state
from farmhand.engine import blobs, streams, subjects
from farmhand.engine.asking import ask_steward, cluster_state
from farmhand.engine.connection import Connection
from farmhand.engine.options import Options
from farmhand.engine.stored import Publisher
from farmhand.home import paths
from farmhand.home.login import tls_context
from farmhand.model import messages
from farmhand.model.peers import mismatch
from farmhand.model.version import VERSION
from farmhand.security.nkeys import KeyPair
from farmhand.security.permissions import Role, inbox_prefix

ANSWER_S: Final = 3.0  # well parts answer in milliseconds
TASK_S: Final = 15.0  # a new lane, code and a slot that starts
SILENT_S: Final = 1.5  # three missed heartbeats
VALUE_BYTES: Final = 3 * 1024 * 1024 + 17  # several chunks and a rest
_FULL_SHARE: Final = 0.95
_RESTART: Final = "farmhand down, then farmhand up"


async def engine(patient: Patient) -> str:
    """Whether something that speaks NATS answers at the address."""
    address = patient.address
    login = Options(address=address, name="doctor", inbox=_no_inbox(), tls=_tls(patient), connect_timeout=ANSWER_S)
    try:
        connection = await Connection.open(login)
    except errors.CredentialRefused:
        return f"answers at {address}"
    except errors.EngineUnreachable as error:
        state = process_state(patient.running.engine_pid) if patient.running else ""
        raise Fault(
            f"{error}{f'; its process {state}' if state else ''}",
            "look into logs/engine.log; is a firewall in between?",
        ) from None
    await connection.close()
    return f"answers at {address}"


async def login(patient: Patient) -> str:
    """Whether our credential gets in."""
    options = patient.meant.connect()
    options.connect_timeout = ANSWER_S
    patient.connection = connection = await Connection.open(options)
    return f"as {options.name}, engine {connection.server.get('version')}"


async def servers(patient: Patient) -> str:
    """Whether all servers of a cluster are up."""
    state = await cluster_state(patient.open_connection, timeout=ANSWER_S)
    if state is None:
        return "one"
    if state["problem"]:
        raise Fault(state["problem"], "start the others with `farmhand up`, or replace one: docs/how-to/cluster.md")
    down = [server["name"] for server in state["servers"] if not server["up"]]
    if down:
        raise Fault(f"{down[0]} is down; the farm goes on, and would stop if one more were lost",
                    "start it with `farmhand up`, or replace it: docs/how-to/cluster.md")  # fmt: skip
    return f"{len(state['servers'])} of {len(state['servers'])} up, the steward of {state['acting']} acts"


async def strangers(patient: Patient) -> str:
    """Whether nobody gets in without a credential, or with one that nobody gave out."""
    tls = _tls(patient)
    for who, signer in (("without any credential", None), ("with a key that was never enrolled", KeyPair.generate())):
        options = Options(
            address=patient.address, name="doctor", inbox=_no_inbox(), signer=signer, tls=tls, connect_timeout=ANSWER_S
        )
        try:
            connection = await Connection.open(options)
        except errors.CredentialRefused:
            continue
        await connection.close()
        raise Fault(f"a connection {who} was let in", f"the farm is open to everybody; {_RESTART}")
    return "refused"


def _no_inbox() -> str:
    return inbox_prefix(Role.CLIENT, "nobody")


def _tls(patient: Patient) -> Any:
    ca = patient.folder.ca if patient.folder is not None else paths.known(patient.address) / "ca.pem"
    return tls_context(patient.address, ca)


async def storage(patient: Patient) -> str:
    """Whether the streams are there, have room, and take a message."""
    connection = patient.open_connection
    total = 0
    for name in subjects.STREAMS:
        info = await streams.call(connection, f"STREAM.INFO.{name}", timeout=ANSWER_S)
        used, most = int(info["state"]["bytes"]), int(info["config"].get("max_bytes", -1))
        if info["config"].get("discard") == "new" and 0 < most * _FULL_SHARE < used:
            raise Fault(
                f"the stream {name} holds {used / 1e6:.0f} of {most / 1e6:.0f} MB", "make room on the engine's disk"
            )
        total += used
    owner, publisher = f"doctor{secrets.token_hex(4)}", Publisher(connection)
    try:
        await asyncio.wait_for(publisher.store(subjects.blob(owner, "check", 0), b"check"), ANSWER_S)
    finally:
        publisher.close()
        await blobs.remove(connection, owner)
    return f"{len(subjects.STREAMS)} streams, {total / 1e6:.1f} MB stored"


async def steward(patient: Patient) -> str:
    """Whether the steward answers."""
    try:
        await ask_steward(patient.open_connection, "hello", timeout=ANSWER_S)
        patient.status = await ask_steward(patient.open_connection, "status", timeout=ANSWER_S)
    except errors.EngineError as error:
        state = process_state(patient.running.steward_pid) if patient.running else ""
        raise Fault(f"{error}{f'; its process {state}' if state else ''}", "look into logs/steward.log") from None
    return f"Farmhand {patient.status['version']}"


async def versions(patient: Patient) -> str:
    """Whether all parts are of one version, and a node offers the Python that this client pickles with."""
    hello = await ask_steward(patient.open_connection, "hello", timeout=ANSWER_S)
    if hello["protocol"] != messages.PROTOCOL:
        said, _, action = mismatch("the farm", hello["version"], hello["protocol"], "this client").rpartition(": ")
        raise Fault(said, action)
    parts = {"this client": VERSION, "the steward": hello["version"]}
    parts |= {f"node {node['name']}": node["version"] for node in patient.status["nodes"]}
    if len(set(parts.values())) > 1:
        raise Fault(
            "different versions: " + ", ".join(f"{part} {version}" for part, version in parts.items()),
            "update the older ones",
        )
    own = ".".join(platform.python_version_tuple()[:2])
    if hello["pythons"] and own not in hello["pythons"]:
        raise Fault(
            f"this client runs Python {own}, the nodes {', '.join(hello['pythons'])}", f"start a node with Python {own}"
        )
    return f"Farmhand {VERSION} everywhere, Python {own}"


async def nodes(patient: Patient) -> str:
    """Whether every node that should be there is, and says so."""
    found = patient.status["nodes"]
    for pid in patient.running.node_pids if patient.running else ():
        if state := process_state(pid):
            raise Fault(f"a node's process {state}", "its supervisor starts a dead one again; see logs/host.log")
        if pid not in {node["pid"] for node in found}:
            raise Fault(f"the node of process {pid} does not report", "see its log in logs/")
    if not found:
        raise Fault("no node has joined", "farmhand join 'LINE' on a machine that shall work")
    for node in found:
        if node["silent"] > SILENT_S:
            raise Fault(
                f"{node['name']} on {node['host']} has been silent for {node['silent']:.1f} s",
                "is it frozen, or its network cut?",
            )
    return ", ".join(node["name"] for node in found)


async def slots(patient: Patient) -> str:
    """Whether every slot's process has started and can run."""
    total = 0
    for node in patient.status["nodes"]:
        if node["ready"] < node["slots"]:
            raise Fault(f"{node['name']}: {node['ready']} of {node['slots']} slots are ready", "see that node's log")
        total += node["slots"]
        for pid in node["slot_pids"] if node["host"] == platform.node() else ():
            if state := process_state(pid):
                raise Fault(f"a slot of {node['name']}: its process {state}", "its node starts a dead one again")
    return f"{total} ready"


def _where() -> tuple[str, int]:
    return platform.node(), os.getpid()


async def task(patient: Patient) -> str:
    """Whether a real task goes all the way and comes back."""
    return await _on_farm(patient, _run_task)


async def large_value(patient: Patient) -> str:
    """Whether a large argument and a large result go all the way through the engine and come back whole."""
    return await _on_farm(patient, _run_large)


async def _on_farm(patient: Patient, action: Any) -> str:
    """Run `action(farm)` on a thread: a Farm is for synchronous code."""

    def run() -> str:
        farm = Farm(patient.meant.address, output=False, shared_memory=False)  # what the engine carries is to be seen
        try:
            found: str = action(farm)
        finally:
            farm.shutdown(wait=True, cancel_futures=True)
        return found

    return await asyncio.to_thread(run)


def _run_task(farm: Farm) -> str:
    future = farm.options(timeout=TASK_S, name="doctor").submit(_where)
    try:
        host, pid = future.result(TASK_S)
    except TimeoutError:
        future.kill()
        raise Fault(
            f"a task did not come back within {TASK_S:g} s", "farmhand status shows whether it waits or runs"
        ) from None
    return f"ran on {host} in process {pid}"


def _run_large(farm: Farm) -> str:
    value = secrets.token_bytes(VALUE_BYTES)
    future = farm.options(timeout=TASK_S, name="doctor").submit(_turn_round, value)
    try:
        digest, back = future.result(TASK_S)
    except TimeoutError:
        future.kill()
        raise Fault(f"a large value did not come back within {TASK_S:g} s", "see the nodes' logs") from None
    if digest != hashlib.sha256(value).hexdigest() or back != value[::-1]:
        raise Fault("a large value came back changed", "please report it")
    return f"{VALUE_BYTES / 1e6:.1f} MB there and back"


def _turn_round(value: bytes) -> tuple[str, bytes]:
    return hashlib.sha256(value).hexdigest(), value[::-1]
