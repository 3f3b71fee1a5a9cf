"""The caretaker of named sessions: makes, keeps and removes them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from farmhand import errors
from farmhand.engine import streams, subjects
from farmhand.engine.wire import Msg
from farmhand.model import limits, messages
from farmhand.model.ids import LaneId, named_session_id
from farmhand.model.named import (
    About,
    SessionRequest,
    SessionState,
    StopRequest,
    read_about,
    read_session_request,
    read_stop_request,
)
from farmhand.model.peers import check_peer
from farmhand.model.version import VERSION
from farmhand.security.permissions import check_name
from farmhand.steward.care import Care
from farmhand.steward.named import Kept

log = logging.getLogger("farmhand.steward")

_NOTED_SHARE: Final = 16  # of its `keep`: attaching after so long is noted in the engine, for a steward that comes next


class Caretaker:
    """`load` finds the sessions that are there. `on_removed` is told the id of one that is not any more."""

    def __init__(self, care: Care, on_removed: Callable[[str], None]) -> None:
        self.sessions: dict[str, Kept] = {}  # by name
        self._care = care
        self._on_removed = on_removed
        self._by_id: dict[str, Kept] = {}
        self._making = asyncio.Lock()
        self._loaded = asyncio.Event()
        self._beat_at = 0.0
        self._looked_at = self._swept_at = asyncio.get_running_loop().time()

    def close(self) -> None:
        """Let go of all of them: the steward ends."""
        for kept in self.sessions.values():
            kept.close()

    async def load(self) -> None:
        """Take over what is stored. Called at the start, and harmless afterwards."""
        if self._loaded.is_set():
            return
        for subject in await streams.subjects_in(self._care.connection, subjects.SESSION, subjects.about("*")):
            message = await streams.last_message(self._care.connection, subjects.SESSION, subject)
            if message is not None and (about := read_about(message.data)).session not in self._by_id:
                self._keep(about, message.at)
        self._loaded.set()
        await self._forget_leavings()

    async def _forget_leavings(self) -> None:
        """What an interrupted removal has left, or a client has stored that had not heard of it yet."""
        if not self.loaded:
            return
        found = set()
        for pattern in (subjects.backlog("*", "*"), subjects.outcomes("*")):
            found.update(await streams.subjects_in(self._care.connection, subjects.SESSION, pattern))
        for session in {subject.split(".")[1] for subject in found} - set(self._by_id):
            await self._forget(session)

    @property
    def loaded(self) -> bool:
        """Whether every session that there is is known."""
        return self._loaded.is_set()

    def _keep(self, about: About, noted: float) -> Kept:
        kept = self.sessions[about.name] = self._by_id[about.session] = Kept(about, self._care, noted)
        self._care.spawn(kept.start())
        return kept

    def on_slots(self, known: Iterable[tuple[LaneId, int]]) -> None:
        """So many slots serve these lanes."""
        lanes = list(known)
        for kept in self.sessions.values():
            kept.on_slots(lanes)

    def on_tick(self, now: float) -> None:
        """Now and then, or sooner when one is kept for less: remove what nobody has used for long."""
        shortest = min((kept.about.keep for kept in self.sessions.values()), default=limits.SESSION_SWEEP_S)
        if now - self._looked_at >= min(shortest, limits.SESSION_SWEEP_S):
            self._looked_at = now
            for kept in self.sessions.values():
                if _is_expired(kept):
                    self._care.spawn(self._expire(kept))
        if now - self._swept_at >= limits.SESSION_SWEEP_S:
            self._swept_at = now
            self._care.spawn(self._forget_leavings())

    def sessions_to_beat(self, now: float) -> Iterable[Kept]:
        """All of them, each BEAT_S: to the membership they are sessions like others."""
        if now - self._beat_at < limits.BEAT_S:
            return ()
        self._beat_at = now
        return tuple(self.sessions.values())

    # ---- questions

    async def session(self, msg: Msg) -> SessionState:
        """Find or make a session, or change how it is kept. Raises `SessionUnknown`, `VersionMismatch`, `BadOption`."""
        kept = await self.get(read_session_request(msg.data))
        return kept.state()

    async def get(self, request: SessionRequest) -> Kept:
        """As `session`: the one that was found or made."""
        check_peer("the client", request.version, request.protocol, "the farm")
        check_name(request.name)
        await self._loaded.wait()
        async with self._making:
            kept = self.sessions.get(request.name)
            if kept is None and not request.create:
                known = ", ".join(sorted(self.sessions)) or "none"
                raise errors.SessionUnknown(f"no session is named {request.name!r} on this farm; it has: {known}")
            wanted = _wanted(request, kept.about if kept is not None else None)
            now = time.time()
            if kept is None or wanted != kept.about or now - kept.noted > wanted.keep / _NOTED_SHARE:
                await self._care.publisher.store(subjects.about(wanted.name), messages.encode(wanted))
                if kept is None:
                    kept = self._keep(wanted, now)
                kept.about, kept.noted = wanted, now
            kept.touched = now
        await kept.ready.wait()
        kept.touched = time.time()
        return kept

    async def summary(self, _msg: Msg) -> list[SessionState]:
        """All sessions."""
        await self._loaded.wait()
        return [kept.state() for kept in self.sessions.values()]

    async def remove(self, msg: Msg) -> bool:
        """Stop a session and forget everything of it. Raises `SessionUnknown`."""
        name = bytes(msg.data).decode()
        await self._loaded.wait()
        kept = self.sessions.get(name)
        if kept is None:
            raise errors.SessionUnknown(f"no session is named {name!r} on this farm")
        await self._remove(kept)
        return True

    async def stop(self, msg: Msg) -> list[bool]:
        """Withdraw tasks of a session."""
        request: StopRequest = read_stop_request(msg.data)
        await self._loaded.wait()
        kept = self._by_id.get(request.session)
        if kept is None:
            raise errors.SessionUnknown("this session was removed")
        await kept.ready.wait()
        return await kept.stop(request.places, kill=request.kill)

    async def _expire(self, kept: Kept) -> None:
        try:
            await self._remove(kept, expired=True)
        except (errors.EngineError, TimeoutError) as error:
            log.debug("session %s is not removed yet: %s", kept.about.name, error)

    async def _remove(self, kept: Kept, *, expired: bool = False) -> None:
        async with self._making:
            if kept.id not in self._by_id or (expired and not _is_expired(kept)):
                return  # somebody else did it meanwhile, or has attached
            if expired:
                log.info("session %s is removed: nothing happened in it for %g s", kept.about.name, kept.about.keep)
            await streams.purge(self._care.connection, subjects.SESSION, subjects.about(kept.about.name))
            kept.close()
            self.sessions.pop(kept.about.name, None)
            self._by_id.pop(kept.id, None)
        self._on_removed(kept.id)
        await self._forget(kept.id)

    async def _forget(self, session: str) -> None:
        """Its blocks and records; the rest goes as for every session that has ended."""
        for subject in (subjects.backlog(session, "*"), subjects.outcomes(session)):
            await streams.purge(self._care.connection, subjects.SESSION, subject)


def _is_expired(kept: Kept) -> bool:
    """Whether nobody has used it for long, and nothing of it is to be run."""
    return kept.ready.is_set() and not kept.core.open and time.time() - kept.touched > kept.about.keep


def _wanted(request: SessionRequest, known: About | None) -> About:
    """The session as it is to be. Raises `BadOption`."""
    if request.keep is not None and not 0 < request.keep <= limits.SESSION_KEEP_MAX_S:
        raise errors.BadOption(
            f"keep={request.keep:g} s: more than 0, and at most {limits.SESSION_KEEP_MAX_S / 86400:g} days"
        )
    about = known or About(
        messages.PROTOCOL, VERSION, request.name, named_session_id(secrets.token_hex(6)), round(time.time(), 3)
    )
    changes: dict[str, Any] = {
        field: value for field in ("keep", "stored_max", "result_max") if (value := getattr(request, field)) is not None
    }
    return msgspec.structs.replace(about, **changes)
