"""The names of streams and subjects, in one place. Laid out so that a credential's role can be enforced by the engine."""

from __future__ import annotations

from typing import Final

WORK: Final = "WORK"
RESULT: Final = "RESULT"
BLOB: Final = "BLOB"
SESSION: Final = "SESSION"
FAILED: Final = "FAILED"
LOG: Final = "LOG"
STREAMS: Final = (WORK, RESULT, BLOB, SESSION, FAILED, LOG)
KEEP: Final = "KEEP"  # of a cluster: what its stewards share, the newest message of each subject
USERS: Final = "keep.users"
LEASE: Final = "keep.lease"
USERS_READ: Final = "keeper.users"  # a question to each steward: does your server know the users of this sequence?
FARM: Final = "farm"  # stands in a result subject where a session's name does: no session's
# Not below `api.`, where every node and client may ask: the answer has the farm's keys.
SERVER_JOIN: Final = "server.join"
# In RESULT: the acting steward's mark, by which the engine refuses reports of an earlier one. No node can have such a name.
TERM: Final = "res.farm.=term"

NODE_BEATS: Final = "node.*.beat"
SESSION_BEATS: Final = "ses.*.beat"
LANES: Final = "farm.lanes"
GONE: Final = "farm.gone"
STEWARD: Final = "steward"  # the steward's name where a node's stands in a result subject
CODE: Final = "code"  # the owner of code blobs: they belong to nobody and are found by their hash


def work(lane: str, session: str) -> str:
    """Where a session publishes work for a lane."""
    return f"work.{lane}.{session}"


def consumer(lane: str) -> str:
    """The durable consumer that serves a lane."""
    return f"lane-{lane}"


def result(session: str, node: str) -> str:
    """Where a node reports to a session."""
    return f"res.{session}.{node}"


def blob(owner: str, blob_id: str, chunk: int | str) -> str:
    """A chunk of a large value, or `*` for all of them."""
    return f"blob.{owner}.{blob_id}.{chunk}"


def about(name: str) -> str:
    """What a named session is."""
    return f"about.{name}"


def backlog(session: str, lane: str) -> str:
    """Where a named session's tasks are stored as they are submitted."""
    return f"bak.{session}.{lane}"


def outcomes(session: str) -> str:
    """The records of a named session's outcomes."""
    return f"out.{session}"


def failed(session: str) -> str:
    """Tasks of a session that ended badly."""
    return f"fail.{session}"


def state_of_session(session: str) -> str:
    """How far a named session is."""
    return f"ses.{session}.state"


def beat_of_node(node: str) -> str:
    """A node's heartbeat."""
    return f"node.{node}.beat"


def control_of_node(node: str) -> str:
    """Requests to one node."""
    return f"node.{node}.ctl"


def beat_of_session(session: str) -> str:
    """A session's heartbeat."""
    return f"ses.{session}.beat"


def started(session: str, node: str) -> str:
    """Notices of a node that tasks run now."""
    return f"ses.{session}.run.{node}"


def output(session: str, node: str) -> str:
    """Lines that tasks printed."""
    return f"ses.{session}.out.{node}"


def control_of_session(session: str) -> str:
    """A session's orders to every node."""
    return f"ctl.{session}"


def api(verb: str) -> str:
    """A request to the steward."""
    return f"api.{verb}"
