"""Tasks that ended badly: who asks sees them, runs them again, or has them forgotten."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from farmhand.engine import streams, subjects
from farmhand.engine.ordered import OrderedReader
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.messages import State
from farmhand.model.named import (
    HEADER,
    Failed,
    FailedRequest,
    SessionRequest,
    heading,
    read_failed,
    read_failed_request,
)
from farmhand.model.version import VERSION
from farmhand.steward.care import Care
from farmhand.steward.caretaker import Caretaker

_Kept = tuple[int, Failed, memoryview]  # its place in the stream, and its body


class Failures:
    """The stream FAILED, as the steward uses it."""

    def __init__(self, care: Care, caretaker: Caretaker) -> None:
        self._care = care
        self._caretaker = caretaker

    async def summary(self, msg: Msg) -> list[dict[str, Any]]:
        """What is kept, oldest first."""
        return [_said(sequence, failed) for sequence, failed, _ in await self._chosen(msg)]

    async def forget(self, msg: Msg) -> list[dict[str, Any]]:
        """Remove them; says which."""
        chosen = await self._chosen(msg)
        for sequence, _, _ in chosen:
            await streams.delete_message(self._care.connection, subjects.FAILED, sequence)
        return [_said(sequence, failed) for sequence, failed, _ in chosen]

    async def retry(self, msg: Msg) -> list[dict[str, Any]]:
        """Submit them again, each to its named session, or to `retries` when it has none (any more). Says which, and where.

        A task is forgotten when it is submitted; a steward that dies in between only repeats itself.
        """
        found = []
        for sequence, failed, body in await self._chosen(msg):
            said = _said(sequence, failed)
            if not failed.lacking:
                said["again"] = await self._submit(sequence, failed, body)
                await streams.delete_message(self._care.connection, subjects.FAILED, sequence)
            found.append(said)
        return found

    async def _chosen(self, msg: Msg) -> list[_Kept]:
        request = read_failed_request(msg.data)
        found: list[_Kept] = []

        def take(sequence: int, _subject: str, data: bytes | memoryview) -> None:
            header, body = messages.split(data)
            failed = read_failed(header)
            if _is_wanted(request, sequence, failed):
                found.append((sequence, failed, body))

        reader = OrderedReader(self._care.connection, subjects.FAILED, subjects.failed("*"), take)
        await reader.start()
        await reader.caught_up()
        reader.close()
        return found

    async def _submit(self, sequence: int, failed: Failed, body: memoryview) -> str:
        """Store it as a block; the name of the session that has it now."""
        name = failed.name if failed.name in self._caretaker.sessions else limits.RETRIED_SESSION
        kept = await self._caretaker.get(SessionRequest(messages.PROTOCOL, VERSION, name, create=True))
        profile = failed.block.profile
        if kept.id != failed.session:  # what its session left in slots is not there any more
            profile = msgspec.structs.replace(profile, state=State(process=profile.state.process), local=False)
        block = msgspec.structs.replace(failed.block, session=kept.id, profile=profile)
        await self._care.publisher.store(
            subjects.backlog(kept.id, block.lane.id), messages.pack(block, body), msg_id=f"retry.{sequence}",
            headers={HEADER: heading(1, profile.name)},
        )  # fmt: skip
        return name


def _is_wanted(request: FailedRequest, sequence: int, failed: Failed) -> bool:
    names = (failed.session, failed.name, failed.block.profile.name, str(sequence))
    return not request.wanted or any(name in names for name in request.wanted)


def _said(sequence: int, failed: Failed) -> dict[str, Any]:
    mark = failed.mark
    return {
        "id": sequence, "task": failed.block.profile.name, "session": failed.name or failed.session,
        "named": bool(failed.name), "at": failed.at, "ago": max(0.0, time.time() - failed.at), "kind": mark.kind.name.lower(),
        "text": mark.text, "node": failed.node, "slot": failed.slot, "attempts": failed.attempts, "tail": list(mark.tail),
        "needs": [str(need) for need in failed.block.lane.needs], "lacking": failed.lacking,
    }  # fmt: skip
