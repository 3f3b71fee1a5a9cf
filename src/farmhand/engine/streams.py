"""The farm's streams and consumers: their definitions, and the few JetStream API requests that Farmhand makes."""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec

from farmhand import errors
from farmhand.engine import asking, subjects
from farmhand.engine.connection import Connection
from farmhand.engine.wire import Msg
from farmhand.model import limits

log = logging.getLogger("farmhand.engine")

_NS: Final = 1_000_000_000  # the API's durations are in nanoseconds
_NOT_FOUND: Final = frozenset({10014, 10037, 10059, 10026})  # consumer, message, stream, no message found
_NO_STORAGE: Final = 10047
WRONG_LAST: Final = 10071  # another message is the newest of its subject than was expected
# The cluster has no leader, or not this one any more; the same message, or one with the same expectation, waits for its quorum.
# One without a number says that raft has another leader.
_PASSING: Final = frozenset({10004, 10006, 10007, 10008, 10009, 10118, 10119, 10158, 10163, 10164})
# Of the engine's storage, for WORK, BLOB and SESSION each. RESULT keeps the rest, so that a full farm can drain, and what
# was removed and is not freed yet has room.
WORK_SHARE: Final = 0.2
LOG_SHARE: Final = 0.05  # what tasks printed drops its own oldest: it never takes the room of anything else


class ApiRefused(errors.EngineError):
    """The engine refused an API request."""

    def __init__(self, detail: str = "", err_code: int = 0) -> None:
        super().__init__(detail)
        self.err_code = err_code


async def call(connection: Connection, verb: str, body: dict[str, Any] | None = None,
               *, timeout: float = limits.REQUEST_S) -> dict[str, Any]:  # fmt: skip
    """One JetStream API request. Raises `ApiRefused` with the engine's words, `EngineLost`, `TimeoutError`."""
    payload = msgspec.json.encode(body) if body is not None else b""
    msg = await asking.request(connection, f"$JS.API.{verb}", payload, timeout=timeout, is_no_answer=_has_no_leader)
    answer: dict[str, Any] = msgspec.json.decode(msg.data)
    if problem := answer.get("error"):
        raise ApiRefused(f"{verb}: {problem.get('description')}", int(problem.get("err_code", 0)))
    return answer


def _has_no_leader(msg: Msg) -> bool:
    """Whether it is the word of a cluster that chooses a new leader: nothing was done, and soon it can be."""
    if b'"error"' not in msg.data:
        return False
    problem = msgspec.json.decode(msg.data).get("error") or {}
    return is_passing(int(problem.get("code", 0)), int(problem.get("err_code", 0)))


def is_passing(code: int, err_code: int) -> bool:
    """Whether an error means that the cluster cannot do it now: to be tried again, with the same id."""
    return err_code in _PASSING or (code == 503 and not err_code)


def definitions(storage_bytes: int, replicas: int) -> list[dict[str, Any]]:
    """The streams. `storage_bytes` is what the engine may use in all, 0 when it is not known."""
    share = int(storage_bytes * WORK_SHARE) if storage_bytes else -1
    log_share = min(int(storage_bytes * LOG_SHARE), limits.LOG_BYTES_MAX) if storage_bytes else -1
    common: dict[str, Any] = {
        "storage": "file",
        "num_replicas": replicas,
        "duplicate_window": int(limits.DEDUPE_WINDOW_S * _NS),
    }
    return [
        {**common, "name": subjects.WORK, "subjects": ["work.*.*"], "retention": "workqueue", "discard": "new",
         "max_bytes": share, "max_consumers": -1},
        {**common, "name": subjects.RESULT, "subjects": ["res.*.*"], "retention": "limits", "discard": "old",
         "max_age": int(limits.RESULT_KEEP_S * _NS)},
        {**common, "name": subjects.BLOB, "subjects": ["blob.*.*.*"], "retention": "limits", "discard": "new",
         "max_bytes": share, "max_age": int(limits.SESSION_KEEP_MAX_S * _NS), "allow_direct": True},
        {**common, "name": subjects.SESSION, "subjects": ["about.*", "bak.*.*", "out.*"], "retention": "limits",
         "discard": "new", "max_bytes": share, "allow_direct": True},
        {**common, "name": subjects.FAILED, "subjects": ["fail.*"], "retention": "limits", "discard": "old",
         "max_age": int(limits.FAILED_KEEP_S * _NS), "max_bytes": min(share, limits.FAILED_BYTES_MAX) if share > 0 else -1,
         "max_msgs_per_subject": limits.FAILED_MAX},
        {**common, "name": subjects.LOG, "subjects": [subjects.output("*", "*")], "retention": "limits", "discard": "old",
         "max_bytes": log_share, "max_age": int(limits.LOG_KEEP_S * _NS),
         "duplicate_window": int(limits.LOG_DEDUPE_S * _NS)},
    ]  # fmt: skip


async def ensure_streams(connection: Connection, storage_bytes: int = 0, replicas: int = 1) -> None:
    """Make the streams, or leave them when they are there. Raises `ApiRefused`."""
    for definition in definitions(storage_bytes, replicas):
        name = definition["name"]
        try:
            await call(connection, f"STREAM.INFO.{name}")
        except ApiRefused as error:
            if error.err_code not in _NOT_FOUND:
                raise
            await call(connection, f"STREAM.CREATE.{name}", definition)
            continue
        # Not CREATE, which would count the stream's share twice.
        try:
            await call(connection, f"STREAM.UPDATE.{name}", definition)
        except ApiRefused as error:
            if error.err_code != _NO_STORAGE:
                raise
            log.warning("stream %s keeps the size that it had: there is less space than at the farm's last start", name)


async def ensure_keep(connection: Connection, replicas: int) -> None:
    """Make what the stewards of a cluster share, or leave it when it is there. Raises `ApiRefused`."""
    definition = {"name": subjects.KEEP, "subjects": ["keep.*"], "storage": "file", "num_replicas": replicas,
                  "retention": "limits", "max_msgs_per_subject": 1}  # fmt: skip
    await call(connection, f"STREAM.CREATE.{subjects.KEEP}", definition)


async def replace_last(connection: Connection, subject: str, payload: bytes, *, after: int) -> int | None:
    """Store `payload` if the subject's newest message is that of sequence `after` (0: it has none). Its sequence.

    None when another one is the newest: somebody else was faster, or an earlier try of ours was stored after all.
    Raises `ApiRefused`, `EngineLost`, `TimeoutError`: whether it was stored is then not known.
    """
    headers = {"Nats-Expected-Last-Subject-Sequence": str(after)}
    msg = await asking.request(connection, subject, payload, headers=headers, is_no_answer=_has_no_leader)
    answer: dict[str, Any] = msgspec.json.decode(msg.data)
    problem = answer.get("error")
    if problem is None:
        return int(answer["seq"])
    if problem.get("err_code") == WRONG_LAST:
        return None
    raise ApiRefused(f"{subject}: {problem.get('description')}", int(problem.get("err_code", 0)))


async def storage_of_server(system: Connection) -> int:
    """Bytes that each server's streams may take in all, asked in their system account. Raises `EngineLost`, `TimeoutError`.

    Of several servers, that of the smallest: each stores everything.
    """
    answers = await asking.gather(system, "$SYS.REQ.SERVER.PING.JSZ", max(1, len(system.servers.living)))
    return max(0, min(int(msgspec.json.decode(msg.data)["data"]["config"]["max_storage"]) for msg in answers))


async def ensure_lane(connection: Connection, lane: str, description: str) -> None:
    """Make the consumer of a lane. It must exist before the first publish, or the work would wait unseen.

    `description` is kept with it, so that a new steward knows what the lane needs.
    """
    name = subjects.consumer(lane)
    config = {
        "durable_name": name, "name": name, "filter_subject": f"work.{lane}.*", "ack_policy": "explicit",
        "ack_wait": int(limits.ACK_WAIT_S * _NS), "max_deliver": -1, "max_ack_pending": 100_000, "max_waiting": 10_000,
        "deliver_policy": "all", "replay_policy": "instant", "metadata": {"lane": description},
    }  # fmt: skip
    await call(
        connection, f"CONSUMER.CREATE.WORK.{name}.work.{lane}.*", {"stream_name": subjects.WORK, "config": config}
    )


async def lane_info(connection: Connection, lane: str) -> dict[str, Any] | None:
    """What the engine says of a lane's consumer; None when there is no such lane."""
    try:
        return await call(connection, f"CONSUMER.INFO.WORK.{subjects.consumer(lane)}")
    except ApiRefused as error:
        if error.err_code in _NOT_FOUND:
            return None
        raise


async def lane_names(connection: Connection) -> list[str]:
    """The lanes that have a consumer."""
    names: list[str] = []
    while True:
        answer = await call(connection, "CONSUMER.NAMES.WORK", {"offset": len(names)})
        page = answer.get("consumers") or []
        names += page
        if not page or len(names) >= int(answer.get("total", 0)):
            return [name.removeprefix("lane-") for name in names if name.startswith("lane-")]


class StoredMessage(msgspec.Struct):
    """A message read back from a stream."""

    sequence: int
    subject: str
    data: bytes
    at: float = 0.0  # when it was stored, in seconds since 1970 by the engine's clock


async def message_at(connection: Connection, stream: str, sequence: int, subject: str = "") -> StoredMessage | None:
    """The first message from `sequence` on that matches `subject`; exactly `sequence` when no subject is given."""
    body: dict[str, Any] = {"seq": sequence}
    if subject:
        body["next_by_subj"] = subject
    return await _message(connection, stream, body)


async def oldest_work(connection: Connection, lane: str, session: str) -> int:
    """The sequence of a session's oldest work in a lane, 0 when there is none. A message that runs is still there."""
    message = await message_at(connection, subjects.WORK, 1, subjects.work(lane, session))
    return message.sequence if message is not None else 0


async def last_message(connection: Connection, stream: str, subject: str) -> StoredMessage | None:
    """The last message of a subject; None when it has none."""
    return await _message(connection, stream, {"last_by_subj": subject})


async def _message(connection: Connection, stream: str, body: dict[str, Any]) -> StoredMessage | None:
    try:
        answer = await call(connection, f"STREAM.MSG.GET.{stream}", body)
    except ApiRefused as error:
        if error.err_code in _NOT_FOUND:
            return None
        raise
    return _stored(answer)


def _stored(answer: dict[str, Any]) -> StoredMessage:
    import base64

    message = answer["message"]
    data = base64.b64decode(message.get("data", ""))
    return StoredMessage(int(message["seq"]), message["subject"], data, seconds(message["time"]))


def seconds(text: str) -> float:
    """A time of the engine's, such as `2027-01-31T14:05:00.123456789Z`, in seconds since 1970."""
    import datetime as dt

    return dt.datetime.fromisoformat(text).timestamp()


async def delete_message(connection: Connection, stream: str, sequence: int) -> None:
    """Remove one message. Removing one that is gone is no error."""
    try:
        await call(connection, f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
    except ApiRefused as error:
        if error.err_code not in _NOT_FOUND and error.err_code != 10043:  # sequence not found
            raise


async def purge(connection: Connection, stream: str, subject: str, *, before: int = 0) -> None:
    """Remove the messages of a subject, all of them or those below sequence `before`."""
    body: dict[str, Any] = {"filter": subject}
    if before:
        body["seq"] = before
    await call(connection, f"STREAM.PURGE.{stream}", body)


async def last_sequence(connection: Connection, stream: str) -> int:
    """The sequence of the newest message that a stream has had."""
    return int((await call(connection, f"STREAM.INFO.{stream}"))["state"]["last_seq"])


async def subjects_in(connection: Connection, stream: str, matching: str = ">") -> list[str]:
    """The subjects that have messages in a stream."""
    return list(await messages_by_subject(connection, stream, matching))


async def messages_by_subject(connection: Connection, stream: str, matching: str = ">") -> dict[str, int]:
    """The subjects that have messages in a stream, and how many each."""
    found: dict[str, int] = {}
    while True:
        answer = await call(connection, f"STREAM.INFO.{stream}", {"subjects_filter": matching, "offset": len(found)})
        page = answer["state"].get("subjects") or {}
        found |= page
        if not page or len(found) >= int(answer.get("total", 0)):
            return found


async def stream_state(connection: Connection, stream: str) -> dict[str, Any]:
    """Messages, bytes and sequences of a stream."""
    answer = await call(connection, f"STREAM.INFO.{stream}")
    state: dict[str, Any] = answer["state"]
    return state
