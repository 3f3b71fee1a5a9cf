"""From a batch to a message in the engine: code first, then the work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from farmhand import errors
from farmhand.client.inputs import Freight, spill
from farmhand.client.large import Large, LateUpload
from farmhand.code.values import pack_values
from farmhand.core.tasks import Batch
from farmhand.engine import subjects
from farmhand.model import limits, messages
from farmhand.model.messages import Profile, Work
from farmhand.model.outcome import BlobRef

if TYPE_CHECKING:
    from farmhand.client.driver import Driver
    from farmhand.client.link import Link


class CodeSender:
    """Stores code that the engine does not have yet, before the first message that needs it."""

    def __init__(self, driver: Link) -> None:
        self.bytes_out = 0
        self._code: dict[str, bytes] = {}  # to be stored, by hash
        self._stored: set[str] = set()
        self._lock = threading.Lock()
        self._driver = driver

    def offer_code(self, code: str, blob: bytes) -> None:
        """A message to come needs this; from any thread."""
        if code not in self._stored:
            with self._lock:
                self._code[code] = blob

    def on_stored(self, hashes: list[str]) -> None:
        """Somebody else has stored this code."""
        self._stored.update(hashes)

    def missing(self, profile: Profile) -> list[str]:
        """What a message with this profile needs and the engine does not have."""
        return [code for code in profile.code_names() if code not in self._stored]

    async def store_code(self, code: str) -> None:
        """Store it, once. Raises `EngineFull`, `StoreFailed`."""
        if code in self._stored:
            return
        with self._lock:
            blob = self._code[code]
        payload = b"%016d" % len(blob) + blob
        parts = [payload[i : i + limits.CHUNK_BYTES] for i in range(0, len(payload), limits.CHUNK_BYTES)]
        for number in range(len(parts) - 1, -1, -1):  # the first chunk last: who finds it finds them all
            await self._driver.publisher.store(subjects.blob(subjects.CODE, code, number), parts[number], first=True)
        self._stored.add(code)
        with self._lock:
            self._code.pop(code, None)


class Sender(CodeSender):
    """Publishes batches. Code that the engine does not have yet goes ahead of the first batch that needs it."""

    _driver: Driver

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self._in_turn = asyncio.Lock()  # fair: first come, first served
        self._waiting = 0  # batches behind that lock

    def send(self, batch: Batch) -> None:
        """Publish a batch; the driver hears `on_stored` or `on_refused`."""
        missing = self.missing(batch.group.profile)
        late = [large.later for large in (*_large_in(batch), *spill(batch, self._driver)) if large.later is not None]
        if missing or late or self._waiting:  # what waits for its code must not be overtaken
            self._waiting += 1
            self._driver.spawn(self._send_after(batch, missing, late))
        else:
            self._publish(batch)

    async def _send_after(self, batch: Batch, missing: list[str], late: list[LateUpload]) -> None:
        try:
            async with self._in_turn:
                for code in missing:
                    await self.store_code(code)
                for upload in late:
                    await upload.stored()
                self._publish(batch)
        except errors.EngineError as error:
            self._driver.on_refused(batch.token, error)
        finally:
            self._waiting -= 1

    def _publish(self, batch: Batch) -> None:
        group, tasks = batch.group, batch.tasks
        # one withdrawn meanwhile has no arguments any more: the node drops it
        entries, refs = cut_large([task.cargo._entry if task is not None else () for task in tasks])
        freight = Freight(batch)
        alone = any(task is not None and task.careful for task in tasks)
        numbers = messages.span_of([task.cargo.number if task is not None else 0 for task in tasks])
        expected = max(0.0, group.mean) * batch.count
        driver = self._driver
        work = Work(messages.PROTOCOL, driver.session_id, batch.token, batch.count, group.profile, expected, alone, batch.attempt,
                    (*refs, *freight.refs), numbers=numbers, depth=group.depth, feeds=tuple(freight.feeds))  # fmt: skip
        frame = messages.pack(work, pack_values([*entries, *freight.entries]))
        self.bytes_out += len(frame)

        def done(sequence: int, error: errors.EngineError | None) -> None:
            if error is None:
                driver.on_stored(batch.token, sequence)
            else:
                driver.on_refused(batch.token, error)

        subject = subjects.work(group.lane_id, driver.session_id)
        driver.publisher.publish(subject, frame, done, msg_id=f"{batch.token:x}")


def cut_large(entries: Iterable[Any]) -> tuple[list[Any], tuple[BlobRef, ...]]:
    """The entries of a message, and references to those that travel beside it."""
    found = list(entries)
    refs = []
    for index, entry in enumerate(found):
        if type(entry) is Large or type(entry) is BlobRef:
            refs.append(BlobRef(index, entry.id, entry.size, entry.path))
            found[index] = None
    return found, tuple(refs)


def _large_in(batch: Batch) -> list[Large]:
    found = (task.cargo._entry for task in batch.tasks if task is not None)
    return [entry for entry in found if type(entry) is Large]
