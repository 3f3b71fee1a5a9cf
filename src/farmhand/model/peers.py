"""Whether another part of the farm speaks as we do, and what to say when it does not."""

from __future__ import annotations

from farmhand import errors
from farmhand.model import limits, messages
from farmhand.model.messages import PROTOCOL, Profile, Report, Work
from farmhand.model.outcome import Kind, Mark
from farmhand.model.version import VERSION


def check_peer(peer: str, version: str, protocol: int, own: str) -> None:
    """Raise `VersionMismatch` for a peer of another protocol. `peer` and `own`: who they are, in words."""
    if protocol != PROTOCOL:
        raise errors.VersionMismatch(mismatch(peer, version, protocol, own))


def mismatch(peer: str, version: str, protocol: int, own: str) -> str:
    """Names both and says which one to update."""
    theirs = f"Farmhand {version} (protocol {protocol})" if version else f"protocol {protocol}"
    older = own if protocol > PROTOCOL else peer
    return f"{peer} runs {theirs}, {own} Farmhand {VERSION} (protocol {PROTOCOL}): update {older}"


def readable_work(header: bytes | memoryview) -> Work:
    """The header of a work message. Of another protocol only what is needed to end its tasks. Raises `BadMessage`."""
    head = messages.read_work_head(header)
    if head.protocol == PROTOCOL:
        return messages.read_work(header)
    return Work(head.protocol, head.session, head.token, head.count, Profile(""))


def readable_report(header: bytes | memoryview) -> Report:
    """The report. One of another protocol ends its tasks as refused, because nobody else will. Raises `BadMessage`."""
    head = messages.read_report_head(header)
    if head.protocol == PROTOCOL:
        return messages.read_report(header)
    why = mismatch(f"node {head.node}", "", head.protocol, "this client")
    count = min(head.count, limits.BATCH_TASKS_MAX)
    marks = tuple(Mark(index, Kind.REFUSED, why) for index in range(head.first, head.first + count))
    return Report(PROTOCOL, head.token, head.first, count, head.node, head.slot, marks)
