"""The agent's end of tasks that submit: carries their words to their session, and outcomes of their children back.

A line belongs to one run of one task. It repeats what was not answered, so that an outage of the engine or of the client
loses nothing, and ends with its task. User code gets no right by it: which session and which task speaks is the agent's word.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from farmhand import errors
from farmhand.core import holding
from farmhand.core.family import ParentLine
from farmhand.engine import blobs, subjects
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.ids import is_named
from farmhand.model.nested import Event, NestedAnswer, What, read_nested_answer
from farmhand.model.outcome import BlobRef
from farmhand.node import slotwire
from farmhand.node.codecache import code_payload

if TYPE_CHECKING:
    from farmhand.node.agent import Agent
    from farmhand.node.slotproc import SlotProcess

log = logging.getLogger("farmhand.node")

_read_said = msgspec.msgpack.Decoder(slotwire.Said).decode
_encode = msgspec.msgpack.Encoder().encode
_STALE: Final = "nobody waits for this run of the task any more"
_ALONE: Final = "the client is gone, and with it who hands out the tasks that this one has submitted"
_ALONE_LOOK_S: Final = 0.5


class Line:
    """One run of a task that has submitted something."""

    def __init__(self, held: holding.Held, index: int, number: int, node: str) -> None:
        self.held = held
        self.index = index
        self.number = number  # of the line, in the reply subject of what is said
        self.core = ParentLine(held.work.token, index, node, f"{held.cargo.name}-{index}")
        self.run = self.core.run
        self.said: deque[slotwire.Said] = deque()  # whose code and files are not stored yet
        self.busy = False  # storing what was said
        self.receiving = False  # fetching what has come
        self.over = False
        self.speaks = asyncio.Event()
        self.heard_at = asyncio.get_running_loop().time()
        self.alone_since: float | None = None
        self.paths: set[str] = set()  # files that are to go with it


class Children:
    """All lines of an agent. Runs on its loop."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._loop = asyncio.get_running_loop()
        self._lines: dict[tuple[int, int], Line] = {}  # by the held message's identity and index
        self._numbers = 0
        self._by_number: dict[int, Line] = {}
        self._by_run: dict[str, Line] = {}
        self._stored: set[str] = set()  # code that this agent has given to the engine
        self._inbox = f"{agent.config.options.inbox}.sub"
        connection = agent.connection
        connection.subscribe(subjects.nested_answer("*", agent.config.node), self._on_answer)
        connection.subscribe(f"{self._inbox}.*", self._on_nobody)
        connection.on_connected.append(self._on_reconnected)

    # ---- the slot speaks

    def on_frame(self, slot: SlotProcess, kind: int, payload: bytes) -> None:
        """A task says something about its children, or that it waits for them."""
        if kind == slotwire.SAY:
            self._on_said(slot, payload)
        else:
            self._on_wait(slot, payload)

    def _on_said(self, slot: SlotProcess, payload: bytes) -> None:
        """A task's word about its children."""
        held = self._agent.holder.by_slot.get(slot.number)
        said = _read_said(payload)
        if held is None or not held.done <= said.index < held.end:
            return
        line = self._lines.get((id(held), said.index)) or self._open(held, said.index)
        line.said.append(said)
        self._agent.bytes_in += len(payload)
        if not line.busy:
            if said.files or not self._stored.issuperset(said.code):
                line.busy = True
                self._agent.spawn(self._store(line))
            else:
                self._ready(line, line.said.popleft())

    def _on_wait(self, slot: SlotProcess, payload: bytes) -> None:
        """A task waits, or goes on."""
        index, waits = map(int, payload.split())
        agent, now = self._agent, self._loop.time()
        held = agent.holder.by_slot.get(slot.number)
        if held is None or not held.done <= index < held.end:
            return
        if waits:
            agent.watch.announce_running(held, slot, again=False)
            agent.carry_out(agent.holder.on_waiting(slot.number, now))
        else:
            agent.holder.on_resumed(slot.number)

    def _open(self, held: holding.Held, index: int) -> Line:
        self._numbers += 1
        line = self._lines[id(held), index] = self._by_number[self._numbers] = Line(
            held, index, self._numbers, self._agent.config.node
        )
        self._by_run[line.run] = line
        self._agent.spawn(self._speak(line))
        return line

    async def _store(self, line: Line) -> None:
        """Code and large arguments go ahead of the word that needs them, and words keep their order."""
        while line.said and not line.over:
            said = line.said[0]
            try:
                for code, data in said.code.items():
                    await self._store_code(code, data)
                refs = [await self._store_file(line, *file) for file in said.files]
            except (errors.FarmhandError, OSError) as error:
                self._tell(line, (), f"what the task submitted could not be stored: {error}")
                break
            said.word.blobs = tuple(refs)
            self._ready(line, line.said.popleft())
        line.busy = False

    async def _store_code(self, code: str, data: bytes) -> None:
        if code in self._stored:
            return
        self._agent.cache.add(code, data)
        payload, size = code_payload(data), limits.CHUNK_BYTES
        parts = [payload[at : at + size] for at in range(0, len(payload), size)]

        async def store(_number: int) -> None:
            for number in range(len(parts) - 1, -1, -1):  # the first chunk last: who finds it finds them all
                subject = subjects.blob(subjects.CODE, code, number)
                await self._agent.publisher.store(subject, parts[number], first=True)

        await blobs.patiently(self._agent.connection, store, sending=True)
        self._stored.add(code)

    async def _store_file(self, line: Line, number: int, path: str, size: int) -> BlobRef:
        blob_id = f"{line.run}-c{number}"
        if line.held.work.profile.local:
            return BlobRef(number, blob_id, size, path)
        await self._agent.spool.send(line.held.work.session, blob_id, Path(path))
        return BlobRef(number, blob_id, size)

    def _ready(self, line: Line, said: slotwire.Said) -> None:
        line.core.words.append(said.word)
        line.speaks.set()

    # ---- to the session and back

    async def _speak(self, line: Line) -> None:
        line.speaks.set()
        while True:
            try:
                pause = _ALONE_LOOK_S if line.alone_since is not None else limits.NESTED_REPEAT_S
                await asyncio.wait_for(line.speaks.wait(), pause)
            except TimeoutError:
                line.core.again = True
            line.speaks.clear()
            if line.over:
                return
            if not self._agent.connection.connected:
                continue
            if self._is_alone(line):
                self._tell(line, (), _ALONE)
            else:
                self._send(line)

    def _is_alone(self, line: Line) -> bool:
        if is_named(line.held.work.session):
            return False  # its caretaker comes back, whenever that is
        now, since = self._loop.time(), line.alone_since
        deserted = since is not None and now - since > limits.NESTED_ALONE_S
        return deserted or now - line.heard_at > limits.NESTED_SILENCE_S

    def _send(self, line: Line) -> None:
        nested, more = line.core.speak()
        if more:
            line.speaks.set()
        subject = subjects.nested(line.held.work.session, nested.node)
        self._agent.connection.publish(subject, messages.encode(nested), reply=f"{self._inbox}.{line.number}")

    def _on_nobody(self, msg: Msg) -> None:
        """Nobody listens to that session's subject."""
        line = self._by_number.get(int(msg.subject.rpartition(".")[2]))
        if line is not None and msg.status and line.alone_since is None:
            line.alone_since = self._loop.time()

    def _on_reconnected(self) -> None:
        for line in self._lines.values():
            line.alone_since, line.heard_at, line.core.again = None, self._loop.time(), True
            line.speaks.set()

    def _on_answer(self, msg: Msg) -> None:
        try:
            answer = read_nested_answer(msg.data)
        except errors.BadMessage as error:
            log.warning("a session's answer to a task cannot be read: %s", error)
            return
        line = self._by_run.get(answer.run)
        if line is not None:
            self._take(line, answer)

    def _take(self, line: Line, answer: NestedAnswer) -> None:
        line.heard_at, line.alone_since = self._loop.time(), None
        if answer.gone:
            self._tell(line, (), _STALE)
            return
        events = line.core.on_answer(answer)
        if line.receiving:
            return  # what comes twice is dropped; the rest is asked for when this is done
        if any(event.blob is not None and not event.blob.path for event in events):
            line.receiving = True
            self._agent.spawn(self._fetch(line, events))
        else:
            self._pass_on(line, events)

    async def _fetch(self, line: Line, events: tuple[Event, ...]) -> None:
        """Large outcomes become files that the slot can open."""
        spool = self._agent.spool
        for event in events:
            if (ref := event.blob) is None or ref.path or line.over:
                continue
            path = spool.folder / f"c-{line.run}-{event.number}"
            line.paths.add(str(path))
            try:
                await spool.fetch(line.held.work.session, ref, path)
            except (errors.FarmhandError, OSError, TimeoutError) as error:
                event.what, event.kind, event.blob = What.REFUSED, "ResultUndecodable", None
                event.text = f"the task succeeded, but its value could not be fetched: {error}"
            else:
                event.blob = BlobRef(ref.index, ref.id, ref.size, str(path))
        line.receiving = False
        line.core.again = True  # something may have been dropped meanwhile
        if line.over:
            self._remove(line)
        else:
            self._pass_on(line, events)

    def _pass_on(self, line: Line, events: tuple[Event, ...]) -> None:
        line.core.seen += len(events)
        line.paths.update(event.blob.path for event in events if event.blob is not None)
        self._tell(line, events)
        line.speaks.set()

    def _tell(self, line: Line, events: tuple[Event, ...], gone: str = "") -> None:
        """To the slot, if the task still runs there."""
        slot = self._agent.slots.get(line.held.slots[0]) if line.held.slots else None
        if slot is not None and self._agent.holder.by_slot.get(slot.number) is line.held:
            slot.write(slotwire.TOLD, _encode(slotwire.Told(line.index, line.core.accepted, events, gone)))
        if gone:
            self._close(line)

    # ---- ends

    def end(self, held: holding.Held, upto: int) -> None:
        """Every index below `upto` has ended: its lines are over."""
        if self._lines:
            for (owner, index), line in list(self._lines.items()):
                if owner == id(held) and index < upto:
                    del self._lines[owner, index]
                    self._close(line)

    def _close(self, line: Line) -> None:
        line.over = True
        self._by_number.pop(line.number, None)
        self._by_run.pop(line.run, None)
        line.speaks.set()
        for said in line.said:
            line.paths.update(path for _, path, _ in said.files)
        for word in line.core.words:
            line.paths.update(ref.path for ref in word.blobs if ref.path)
        if not line.receiving:
            self._remove(line)

    def _remove(self, line: Line) -> None:
        for path in line.paths:
            Path(path).unlink(missing_ok=True)
        line.paths.clear()
