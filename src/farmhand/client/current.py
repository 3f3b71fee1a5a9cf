"""`Farm.current()`: inside a task, the farm that runs it, as an Executor whose tasks are the task's children.

It runs in a slot, which has no connection: what is submitted goes to the node's agent, and from there to whoever drives the
session. A thread of its own sends what was submitted and settles futures. While the main thread waits for a child, or all
threads are idle while there are children, the agent is told so, and the slot's place is lent.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from farmhand import errors
from farmhand.client.child import ChildFuture, fail_child, settle_child
from farmhand.client.farm import _View
from farmhand.client.options import TaskOptions, own_lane
from farmhand.code.pack import Packer
from farmhand.code.values import estimate_size, pack_values
from farmhand.core.tasks import Group, Task, TaskState
from farmhand.model import limits
from farmhand.model.environment import Recipe
from farmhand.model.messages import Profile
from farmhand.model.nested import ChildGroup, Event, What, Word
from farmhand.node import parent, slotwire

_WORD_CHILDREN: Final = 512  # in one word
_read_entries = msgspec.msgpack.Decoder(tuple[msgspec.Raw, ...]).decode


class _SlotPacker(Packer):
    """Packs in a slot. What came here in bundles is known to the engine, and children get all bundles of their parent."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def _needs_of(self, modules: set[str]) -> Any:
        import sys

        def bundled(name: str) -> bool:
            module = sys.modules.get(name.partition(".")[0])
            places = [getattr(module, "__file__", None) or "", *list(getattr(module, "__path__", ()))]
            return any(str(place).startswith(self._folder) for place in places)

        return super()._needs_of({name for name in modules if not bundled(name)})


class CurrentFarm(_View):
    """The farm of the running task, for as long as that runs. See `Farm.current`."""

    _eager = False  # a list may be longer than what one task may have without an outcome

    def __init__(self, door: Any) -> None:
        work = door.work
        self.index: int = door.index
        self._door = door
        self._profile: Profile = work.profile
        self._depth: int = work.depth
        self._session: str = work.session
        self._files = f"{door.results}-{self.index}-c"
        recipe = _recipe_of(door, self._profile.environment)
        self._options = TaskOptions(lane=own_lane(recipe=recipe), recipe=recipe)
        self._max_workers = os.cpu_count() or 1
        self._packer = _packer_of(str(door.bundles))
        self._groups: dict[tuple[Any, ...], Group] = {}
        self._lock = threading.Lock()
        self.numbers = itertools.count(1)  # of its children
        self._open: dict[int, ChildFuture[Any]] = {}
        self._unsent: list[tuple[ChildFuture[Any], Any]] = []  # with the path of large arguments
        self._stops: list[int] = []
        self._words: deque[int] = deque()  # bytes of the words that are not taken yet
        self._accepted = 0  # words that are
        self._ahead = 0  # bytes that are not
        self._unsent_bytes = 0
        self._code: dict[str, bytes] = {}  # that the agent may not have
        self._room = threading.Condition()
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lent = 0  # waits of the main thread that are under way
        self._idle = False  # nothing in this process computes, as far as was seen
        self._seen = (time.process_time(), time.monotonic())
        self._lent_at = -1.0  # when a wait of the main thread ended
        self._why = ""  # nothing more comes, because
        self._refused = False
        self._ended = False
        self._thread = threading.Thread(target=self._serve, name="farmhand-children", daemon=True)
        self._thread.start()

    # ---- the Executor

    @property
    def _farm(self) -> Any:
        return self

    @property
    def session_id(self) -> str:
        """See `Link`."""
        return self._session

    @property
    def session(self) -> str:
        """The id of the client's session, to which children belong too."""
        return self._session

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to do: the farm is the client's. What has no outcome at the task's end is withdrawn."""

    def _submit(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ChildFuture[Any]:
        return self._submit_many(options, fn, [args], kwargs)[0]

    def _submit_many(
        self, options: TaskOptions, fn: Callable[..., Any], calls: Iterable[tuple[Any, ...]],
        kwargs: dict[str, Any] | None = None,
    ) -> list[ChildFuture[Any]]:  # fmt: skip
        futures = []
        for args in calls:
            self._check()
            if self._ahead > limits.NESTED_BYTES_AHEAD:
                self._wait_room()
            future: ChildFuture[Any] = ChildFuture(self)
            entry, size, path, bundles = self._pack(future.number, args, kwargs or {})
            group = self._group(options, fn, bundles)
            future._entry = entry
            future._task = Task(group, size, future)
            with self._lock:
                self._open[future.number] = future
                self._unsent.append((future, path))
                self._unsent_bytes += size
                full = len(self._unsent) >= _WORD_CHILDREN or self._unsent_bytes >= limits.NESTED_ANSWER_BYTES
            if full:
                self.flush()
            elif len(self._unsent) == 1:
                self._told.put(None)  # the thread sends it, with what else has come by then
            futures.append(future)
        return futures

    def _check(self) -> None:
        if self._ended:
            raise RuntimeError("cannot schedule new futures after the end of their task")
        if self._why:
            raise errors.FarmClosed(self._why)
        if self._depth >= limits.NESTED_DEPTH_MAX:
            raise errors.NestedTooDeep
        if len(self._open) >= limits.NESTED_CHILDREN_MAX:
            raise errors.TooManyChildren

    def _pack(
        self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, int, str, tuple[str, ...]]:
        """The entry of a call, its bytes, the file it is in when it is large, and the bundles of its arguments."""
        if estimate_size(args, kwargs) < limits.INLINE_BYTES_MAX:
            entry, bundles = self._packer.pack_call(args, kwargs)
            if type(entry) is tuple:
                return entry, 64, "", bundles
            if len(entry) < limits.INLINE_BYTES_MAX:
                return entry, len(entry), "", bundles
        path = Path(f"{self._files}{number}")
        try:
            with path.open("wb") as file:
                bundles = self._packer.pack_call_into(args, kwargs, file.write)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return None, 128, str(path), bundles

    def _group(self, options: TaskOptions, fn: Callable[..., Any], bundles: tuple[str, ...]) -> Group:
        if options.recipe != self._options.recipe:
            raise errors.BadOption(
                "env=: a task's tasks run in its own environment; submit from the client for another"
            )
        code = self._packer.code_for(fn)
        key = (code.hash, code.bundles, bundles, options)
        group = self._groups.get(key)
        if group is None:
            union = tuple(sorted({*code.bundles, *bundles, *self._profile.bundles}))
            name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or type(fn).__name__
            profile = options.profile(code.hash, str(name), union, self._profile, self._profile.environment)
            group = self._groups[key] = Group(options.lane, profile, options.retry)
            new = {*code.bundles, *bundles} - {*self._profile.bundles}
            self._code |= {code.hash: code.blob} | {bundle: self._packer.bundle(bundle).blob for bundle in new}
        return group

    # ---- to the agent

    def flush(self) -> None:
        """Send what was submitted, and what is to be stopped."""
        with self._lock:
            taken, self._unsent = self._unsent, []
            stops, self._stops = self._stops, []
            self._unsent_bytes = 0
            if taken or stops:
                self._send(taken, stops)

    def _send(self, taken: list[tuple[ChildFuture[Any], Any]], stops: list[int]) -> None:
        """One word. Words leave in the order of their numbers, so this needs the lock."""
        groups: dict[int, tuple[int, ChildGroup]] = {}
        children, entries, files, size = [], [], [], 0
        code: dict[str, bytes] = {}
        for future, path in taken:
            task = future._task
            entry = future._entry
            if task is None or (entry is None and not path):
                Path(path).unlink(missing_ok=True) if path else None  # cancelled before it left
                continue
            group = task.group
            if id(group) not in groups:
                groups[id(group)] = (len(groups), ChildGroup(group.profile, group.lane, group.retry))
                names = group.profile.code_names()
                code |= {name: self._code.pop(name) for name in names if name in self._code}
            children.append((future.number, groups[id(group)][0], task.size))
            entries.append(entry)
            size += task.size
            if path:
                files.append((future.number, path, Path(path).stat().st_size))
            future._entry = None
        word = Word(
            tuple(group for _, group in groups.values()),
            tuple(children),
            _read_entries(pack_values(entries)),
            (),
            tuple(stops),
        )
        self._words.append(size)
        self._ahead += size
        self._door.say(slotwire.Said(self.index, word, code, tuple(files)))

    def _wait_room(self) -> None:
        """The session takes words more slowly than they come: wait for it."""
        if threading.current_thread() is self._thread:
            return  # a callback submits: nothing would wake it
        self.flush()
        with self._room:
            while self._ahead > limits.NESTED_BYTES_AHEAD and not self._why and not self._ended:
                self._room.wait(limits.SIGNAL_S)

    # ---- what a future asks of its driver

    def cancel(self, task: Task) -> bool:
        """See `Driver.cancel`."""
        with self._lock:
            if task.state in (TaskState.RUNNING, TaskState.DONE):
                return False
            task.state = TaskState.DONE
            self._open.pop(task.cargo.number, None)
            self._stop(task.cargo.number)
        return True

    def kill(self, task: Task) -> bool:
        """See `Driver.kill`."""
        if self.cancel(task):
            return True
        with self._lock:
            if task.state is TaskState.RUNNING:
                self._stop(task.cargo.number)
        return False

    def _stop(self, number: int) -> None:
        self._stops.append(number)
        self._told.put(None)

    def forget(self, entry: Any) -> None:
        """See `Driver.forget`."""

    def on_its_thread(self) -> bool:
        """Whether the caller is a future's callback."""
        return threading.current_thread() is self._thread

    # ---- waiting

    def patience(self, timeout: float | None) -> float:
        """How long to wait before it is worth telling. Sends what is unsent."""
        self.flush()
        pause = limits.LEND_AFTER_S if time.monotonic() - self._lent_at > limits.IDLE_LOOK_S else 0.0
        return pause if timeout is None else max(0.0, min(pause, timeout))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The caller waits for children: the place is lent if it is the main thread."""
        if threading.current_thread() is not threading.main_thread() or self._ended:
            yield
            return
        self._tell_wait(1)
        try:
            yield
        finally:
            self._seen = (time.process_time(), time.monotonic())
            self._tell_wait(-1, idle=False)
            self._lent_at = time.monotonic()
            self._told.put(None)  # the thread looks again whether anything computes
        if self._refused:
            raise errors.TooManyWaiting

    def _tell_wait(self, change: int, *, idle: bool | None = None) -> None:
        with self._lock:
            before = self._lent > 0 or self._idle
            self._lent += change
            self._idle = self._idle if idle is None else idle
            now = self._lent > 0 or self._idle
            if before != now and not self._ended:
                self._door.wait(self.index, waits=now)

    def _look_idle(self) -> None:
        """Tasks may wait in ways of their own: in other threads, in an event loop, by looking again and again."""
        (used, since), self._seen = self._seen, (time.process_time(), time.monotonic())
        computed, passed = self._seen[0] - used, self._seen[1] - since
        idle = bool(self._open) and not self._lent and computed < limits.IDLE_SHARE * passed
        if idle != self._idle and passed > limits.IDLE_LOOK_S / 2:
            self._tell_wait(0, idle=idle)

    # ---- from the agent

    def on_told(self, told: slotwire.Told) -> None:
        """See `parent.Listener`."""
        self._told.put(told)

    def on_refused(self) -> None:
        """See `parent.Listener`."""
        self._refused = True
        self._told.put(slotwire.Told(self.index, 0, (), errors.TooManyWaiting.__name__))

    def on_end(self) -> None:
        """See `parent.Listener`."""
        with self._lock:
            if (self._lent > 0 or self._idle) and not self._ended:
                self._door.wait(self.index, waits=False)
            self._ended = True
            unsent = [path for _, path in self._unsent if path]
            self._unsent.clear()
        for path in unsent:
            Path(path).unlink(missing_ok=True)
        self._told.put(None)

    def _serve(self) -> None:
        """The thread: sends, settles, and looks whether anything computes."""
        while not self._ended:
            try:
                looks = self._open and not self._lent
                item = self._told.get(timeout=limits.IDLE_LOOK_S if looks else None)
            except queue.Empty:
                self._look_idle()
                continue
            self.flush()
            if item is not None:
                self._take(item)
                if self._idle and item.events:
                    self._seen = (time.process_time(), time.monotonic())
                    self._tell_wait(0, idle=False)
        self._fail(errors.FarmClosed("the task that submitted this has ended"))

    def _take(self, told: slotwire.Told) -> None:
        if told.gone:
            self._why = told.gone
            known = told.gone == errors.TooManyWaiting.__name__
            self._fail(errors.TooManyWaiting() if known else errors.FarmClosed(told.gone))
            return
        with self._room:
            while told.accepted > self._accepted:
                self._accepted += 1
                self._ahead -= self._words.popleft()
            self._room.notify_all()
        for event in told.events:
            future = self._open.get(event.number)
            if future is None:
                continue
            if event.what is What.RUNNING:
                self._run(future, event)
                continue
            with self._lock:
                del self._open[event.number]
                if (task := future._task) is not None:
                    task.state = TaskState.DONE
            settle_child(future, event, task.group.profile if task is not None else self._profile)

    def _run(self, future: ChildFuture[Any], event: Event) -> None:
        with self._lock:
            task = future._task
            if task is None or task.state is TaskState.DONE:
                return
            task.state = TaskState.RUNNING
        future.on_running(event.node)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            left, self._open = list(self._open.values()), {}
        for future in left:
            fail_child(future, error)

    def __repr__(self) -> str:
        return f"<Farm.current() session={self._session} depth={self._depth}>"


_packers: dict[str, _SlotPacker] = {}


def _recipe_of(door: Any, environment: str) -> Recipe | None:
    """What the environment of this process was made from."""
    if not environment:
        return None
    return msgspec.json.decode((door.bundles.parent / "blobs" / environment).read_bytes(), type=Recipe)


def _packer_of(bundles: str) -> _SlotPacker:
    """One for the whole life of the slot: equal functions are packed once."""
    found = _packers.get(bundles)
    if found is None:
        found = _packers[bundles] = _SlotPacker(bundles)
    return found


def current() -> CurrentFarm:
    """The farm of the task that runs in this process. Raises `NotInTask`."""
    door = parent.here
    if door is None or door.index < 0:
        raise errors.NotInTask
    if door.listener is None:
        door.listener = CurrentFarm(door)
    found: CurrentFarm = door.listener
    return found
