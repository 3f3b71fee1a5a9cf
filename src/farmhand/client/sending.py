"""From a batch to a message in the engine: code first, then the work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

import msgspec

from farmhand import errors
from farmhand.code.values import pack_values
from farmhand.core.tasks import Batch
from farmhand.engine import blobs, subjects
from farmhand.model import limits, messages
from farmhand.model.messages import Profile, Work
from farmhand.model.outcome import BlobRef

if TYPE_CHECKING:
    from farmhand.client.driver import Driver
    from farmhand.client.link import Link


class Large(msgspec.Struct):
    """In the place of an entry: arguments that travel beside the message."""

    id: str
    size: int
    path: str = ""
    later: LateUpload | None = None  # what stores them before the first message that needs them


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

    def missing(self, profile: Profile) -> list[str]:
        """What a message with this profile needs and the engine does not have."""
        hashes = (profile.code, *profile.bundles, profile.initializer, profile.initargs, profile.environment)
        return [code for code in hashes if code and code not in self._stored]

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
        late = [entry.later for entry in _large_in(batch) if entry.later is not None]
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
        alone = any(task is not None and task.careful for task in tasks)
        numbers = messages.span_of([task.cargo.number if task is not None else 0 for task in tasks])
        expected = max(0.0, group.mean) * batch.count
        driver = self._driver
        work = Work(messages.PROTOCOL, driver.session_id, batch.token, batch.count, group.profile, expected, alone, batch.attempt,
                    refs, numbers=numbers)  # fmt: skip
        frame = messages.pack(work, pack_values(entries))
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
        if type(entry) is Large:
            refs.append(BlobRef(index, entry.id, entry.size, entry.path))
            found[index] = None
    return found, tuple(refs)


def _large_in(batch: Batch) -> list[Large]:
    found = (task.cargo._entry for task in batch.tasks if task is not None)
    return [entry for entry in found if type(entry) is Large]


class LateUpload:
    """Large arguments that were submitted on the session's own thread, in a future's callback: it must not wait for itself."""

    def __init__(self, driver: Link, blob_id: str) -> None:
        self._driver = driver
        self._id = blob_id
        self._pieces: list[bytes] = []
        self._tried = False
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep one piece; the caller's memory may change afterwards."""
        self._pieces.append(bytes(data))
        self.size += len(self._pieces[-1])

    async def stored(self) -> None:
        """Store all of it, once. Raises the engine's refusal; then the next call tries again."""
        if not self._pieces:
            return
        driver = self._driver
        writer = blobs.Writer(driver.publisher, driver.session_id, self._id, again=self._tried)
        self._tried = True
        for piece in self._pieces:
            await writer.write(piece)
        await writer.finish()
        self._pieces.clear()


class Uploader:
    """Takes the pieces of large arguments from the caller's thread and stores them; the caller waits when it is too fast."""

    def __init__(self, driver: Link, blob_id: str) -> None:
        self._driver = driver
        self.blob_id = blob_id
        self.writer = blobs.Writer(driver.publisher, driver.session_id, blob_id)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Store one piece. Raises what the engine says, `EngineFull` also when it says nothing."""
        self._wait(self.writer.write(data))

    def finish(self) -> None:
        """Wait until all pieces are stored. Raises the same."""
        self._wait(self.writer.finish())

    def _wait(self, coroutine: Coroutine[Any, Any, None]) -> None:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._driver.loop)
        while not wait([future], limits.STORE_RETRY_S).done:
            if self._driver.publisher.stuck:
                future.cancel()
                raise errors.EngineFull("the engine stores nothing: its disk is full")
        future.result()

    def withdraw(self) -> None:
        """Forget the pieces that were stored: the task was refused."""
        driver = self._driver
        driver.loop.call_soon_threadsafe(lambda: driver.spawn(driver.results.remove(self.blob_id)))
