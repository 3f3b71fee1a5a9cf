"""Identifiers. Each is a type of its own, so that a node's id cannot be passed where a session's is meant."""

from __future__ import annotations

from typing import NewType

SessionId = NewType("SessionId", str)  # 12 characters, lower case and digits, safe in a subject
NodeId = NewType("NodeId", str)  # the same; stable over restarts of the agent
Incarnation = NewType("Incarnation", str)  # one life of an agent's connection
LaneId = NewType("LaneId", str)  # hash of a requirement set
TaskNumber = NewType("TaskNumber", int)  # counts from 0 within a session
Token = NewType("Token", int)  # one attempt: one published batch; 63 bits that nobody else can guess
CodeHash = NewType("CodeHash", str)  # 32 hexadecimal digits of BLAKE2b
BlobId = NewType("BlobId", str)
