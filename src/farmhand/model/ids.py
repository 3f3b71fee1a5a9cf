"""Identifiers. Each is a type of its own, so that a node's id cannot be passed where a session's is meant."""

from __future__ import annotations

from typing import NewType

SessionId = NewType("SessionId", str)  # lower case and digits, safe in a subject; see `session_id`
NodeId = NewType("NodeId", str)  # the same; stable over restarts of the agent
Incarnation = NewType("Incarnation", str)  # one life of an agent's connection
LaneId = NewType("LaneId", str)  # hash of a requirement set
TaskNumber = NewType("TaskNumber", int)  # counts from 1 within a session
Token = NewType("Token", int)  # one attempt: one published batch; 63 bits that nobody else can guess
CodeHash = NewType("CodeHash", str)  # 32 hexadecimal digits of BLAKE2b
BlobId = NewType("BlobId", str)

_FINISH = "f"
_NAMED = "n"


def session_id(chance: str, on_client_loss: str) -> SessionId:
    """A new session's id, of random hexadecimal digits. Its first letter says what becomes of running tasks without the client.

    In the id, because every message of the session carries it, and a steward may have to know when all else is gone.
    """
    return SessionId((_FINISH if on_client_loss == "finish" else "k") + chance)


def named_session_id(chance: str) -> SessionId:
    """The id of a session that outlives its clients."""
    return SessionId(_NAMED + chance)


def kill_on_loss(session: str) -> bool:
    """Whether the running tasks of this session are stopped when its client is gone."""
    return not session.startswith(_FINISH)


def is_named(session: str) -> bool:
    """Whether a session outlives its clients."""
    return session.startswith(_NAMED)
