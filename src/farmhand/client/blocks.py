"""From what was submitted to a named session to blocks in the engine: code and large values first, then each block in its turn."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from farmhand import errors
from farmhand.client.futures import FarmFuture
from farmhand.client.inputs import Source
from farmhand.client.large import Large, store_bytes
from farmhand.client.sending import cut_large
from farmhand.code.values import Entry, pack_values
from farmhand.core.tasks import Group, Task
from farmhand.engine import subjects
from farmhand.model import limits, messages
from farmhand.model.messages import Feed, Profile
from farmhand.model.named import HEADER, Block, Input, heading
from farmhand.model.outcome import BlobRef

if TYPE_CHECKING:
    from farmhand.client.named import NamedDriver

log = logging.getLogger("farmhand.client")


class Cargo:
    """What a block has for the calls in it that have inputs. `load` may have to wait for what these are."""

    def __init__(self, driver: NamedDriver, tasks: Sequence[Task]) -> None:
        self.feeds: list[Feed] = []
        self.inputs: list[Input] = []
        self.entries: list[Entry | None] = []
        self.refs: list[BlobRef] = []
        self.counted = 0
        self.bundles: set[str] = set()
        self.large: list[Source] = []
        self._driver = driver
        self._tasks = tasks
        self._places: dict[Any, int] = {task.cargo: index for index, task in enumerate(tasks)}
        self._size = 0

    async def load(self) -> None:
        """Fill it. Raises what the engine says of large values."""
        for index, task in enumerate(self._tasks):
            if sources := task.cargo._inputs:
                self.feeds.append(Feed(index, tuple([await self._place(source) for source in sources])))

    async def _place(self, source: Source) -> int:
        future = source.future
        key = source if future is None else future
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self._tasks) + len(self.entries)
            entry = source.entry if future is None else None
            if future is not None:
                await self._add_task(future, place)
            elif source.large is not None or self._is_too_much(entry):
                await self._add_large(source, place)
                entry = None
            self.entries.append(entry)
        return place

    def _is_too_much(self, entry: Entry | None) -> bool:
        if type(entry) is bytes:
            self._size += len(entry)
            return len(entry) >= limits.INLINE_BYTES_MAX or self._size > limits.INPUT_BYTES_INLINE_MAX
        return False

    async def _add_task(self, future: FarmFuture[Any], place: int) -> None:
        driver = self._driver
        while not future.number:  # its block was sent before this one
            await driver.next_stored().wait()
        at = messages.place_of(future.number)
        self.bundles.update(await driver.blocks.bundles_of(at[0]))
        ledger = driver.ledger
        name = future._task.group.profile.name if future._task is not None else ""
        self.inputs.append(Input(place, *at, ledger.recorded_from(at), name or ledger.name(at)))

    async def _add_large(self, source: Source, place: int) -> None:
        if source.large is None:
            assert type(source.entry) is bytes
            source.large = store_bytes(self._driver, source.entry)
        large = source.large
        if large.later is not None:
            await large.later.stored()
        self.counted += large.size if source.shipped else 0
        self.large.append(source)
        self.refs.append(BlobRef(place, large.id, large.size, "", large.mapped, source.name))


class Sent(NamedTuple):
    """A block on its way to the engine. `bundles`: what the values of its tasks need."""

    tasks: Sequence[Task]
    bundles: tuple[str, ...]


class Blocks:
    """Sends blocks in the order of their submission. `outgoing` and `unanswered` are the driver's to look at, under its lock."""

    def __init__(self, driver: NamedDriver) -> None:
        self.outgoing: deque[tuple[Group, list[Task]]] = deque()
        self.unanswered: dict[str, Sent] = {}  # on their way to the engine, by id
        self._driver = driver
        self._sending = False
        self._bundles: dict[int, tuple[str, ...]] = {}  # that the values of a block's tasks need, by its sequence

    def send(self) -> None:
        """Send what is outgoing."""
        if self.outgoing and not self._sending:
            self._sending = True
            self._driver.spawn(self._send_all())

    async def _send_all(self) -> None:
        driver = self._driver
        while self.outgoing:
            group, tasks = self.outgoing[0]
            cargo = Cargo(driver, tasks)
            try:
                for code in driver.sender.missing(group.profile):
                    await driver.sender.store_code(code)
                for task in tasks:
                    entry = task.cargo._entry
                    if type(entry) is Large and entry.later is not None:
                        await entry.later.stored()
                await cargo.load()
            except errors.EngineError as error:
                log.warning("code or data for session %s is not stored yet: %s", driver.state.name, error)
                await asyncio.sleep(limits.STORE_RETRY_S)
                continue
            await driver.publisher.wait_room()
            with driver.lock:
                if not self.outgoing:
                    break  # it was given up
                self.outgoing.popleft()
                profile = group.profile
                if not cargo.bundles <= set(profile.bundles):
                    bundles = tuple(sorted({*profile.bundles, *cargo.bundles}))
                    profile = msgspec.structs.replace(profile, bundles=bundles)
                self.unanswered[msg_id := secrets.token_hex(8)] = Sent(tasks, profile.bundles)
            self._store(group, profile, tasks, cargo, msg_id)
        self._sending = False

    def _store(self, group: Group, profile: Profile, tasks: Sequence[Task], cargo: Cargo, msg_id: str) -> None:
        """Store a block until the engine has it. After a long outage it may have it twice: then the first one counts."""
        driver = self._driver
        entries, refs = cut_large(task.cargo._entry for task in tasks)
        block = Block(
            messages.PROTOCOL, driver.session_id, len(tasks), profile, group.lane, group.retry, (*refs, *cargo.refs),
            after=driver.newest, feeds=tuple(cargo.feeds), inputs=tuple(cargo.inputs), counted=cargo.counted,
        )  # fmt: skip
        frame = messages.pack(block, pack_values([*entries, *cargo.entries]))
        driver.sender.bytes_out += len(frame)
        for source in cargo.large:
            source.shipped = True
        subject = subjects.backlog(driver.session_id, group.lane_id)
        headers = {HEADER: heading(len(tasks), profile.name)}

        began = time.time(), driver.loop.time()  # one of them counts while the machine sleeps

        def done(sequence: int, error: errors.EngineError | None) -> None:
            passed = max(time.time() - began[0], driver.loop.time() - began[1])
            if error is None and passed < limits.STORE_DEADLINE_S:  # else the reader of blocks meets the first one
                driver.on_stored(sequence, msg_id)
            elif error is not None and msg_id in self.unanswered and not driver.closing.is_set():
                log.warning("session %s: a block is not stored yet: %s", driver.state.name, error)
                driver.loop.call_later(limits.STORE_RETRY_S, again)

        def again() -> None:
            driver.publisher.publish(subject, frame, done, msg_id=msg_id, headers=headers)

        again()

    def take_stored(self, sequence: int, msg_id: str) -> Sequence[Task] | None:
        """The tasks of a block that is stored; None if that was known, or everything was given up. Under the driver's lock."""
        sent = self.unanswered.pop(msg_id, None)
        if sent is None:
            return None
        self._bundles[sequence] = sent.bundles
        return sent.tasks

    async def bundles_of(self, sequence: int) -> tuple[str, ...]:
        """The modules of the user that values of this block's tasks may need, whoever submitted it."""
        found = self._bundles.get(sequence)
        if found is None:
            block = await self._driver.records.block(sequence)
            found = self._bundles[sequence] = block.profile.bundles if block is not None else ()
        return found
