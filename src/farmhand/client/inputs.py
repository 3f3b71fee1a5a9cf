"""What serves calls as an input: the value of a future, or an object that was scattered. The client need not have it.

A `Source` is held by whoever may need the value: the future or the `Ref`, and each task that has it as an input. When nobody
holds it any more, what lies on the farm for it is removed. That is all the bookkeeping there is.
"""

from __future__ import annotations

from concurrent.futures._base import FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any

from farmhand.client.futures import FarmFuture, settling
from farmhand.client.large import Large, store_bytes
from farmhand.code import inputs as code_inputs
from farmhand.code.values import Entry, pack_value
from farmhand.core.tasks import Batch, Group, Links, Task, TaskState
from farmhand.errors import BadOption, InputFailed
from farmhand.model import limits
from farmhand.model.ids import is_named
from farmhand.model.messages import Feed, Profile
from farmhand.model.needs import Lane
from farmhand.model.outcome import BlobRef
from farmhand.model.retry import Retry

if TYPE_CHECKING:
    from farmhand.client.link import Link


class Source:
    """A value, or the promise of one. It has an `entry` (small), is `large`, or will be when its `task` has succeeded."""

    __slots__ = ("__weakref__", "bundles", "driver", "entry", "future", "large", "modules", "name", "origin", "shipped", "task",
                 "wanted")  # fmt: skip

    def __init__(self, name: str, *, task: Task | None = None, entry: Entry | None = None,
                 driver: Link | None = None, future: FarmFuture[Any] | None = None) -> None:  # fmt: skip
        self.name = name
        self.task = task
        self.entry = entry
        self.large: Large | None = None
        self.driver = driver
        self.wanted = False  # some call has it as an input
        self.bundles: tuple[str, ...] = task.group.profile.bundles if task is not None else ()  # to unpickle it
        self.modules: set[str] = set()  # of the user, that are needed for that, while their bundles are not known
        self.origin: bytes | None = None  # what it was made of, if that cannot change
        self.future = future  # of a named session, which has the value and gives it to the call
        self.shipped = False  # a block of a named session has it

    def lies(self, large: Large, driver: Link) -> None:
        """It is on the farm, and to be removed there when nobody holds this any more."""
        self.large, self.driver = large, driver
        driver.keep(self, large)


_NOBODY = Group(Lane(), Profile(""), Retry())


def _ended(future: FarmFuture[Any]) -> Task:
    """Stands for the task of a future that has no value, and that the session has forgotten."""
    task = Task(_NOBODY, 0, future)
    task.to(TaskState.DONE)
    return task


def source_of(future: FarmFuture[Any]) -> Source:
    """A future as an input of a call. A value that this process has travels as it is now; what packing it raises is raised."""
    if is_named(future._session):
        return _named_source(future)
    with settling:
        source, task, packed = future._source, future._task, future._packed
        pending = future._state in (PENDING, RUNNING)
        if source is None and pending and not (task is None and packed is None):
            name = task.group.profile.name if task is not None else "task"
            source = future._source = Source(f"the result of {name!r}", task=task, entry=packed, driver=future._driver)
        if source is not None:
            source.wanted = True
            return source
    if pending:  # it is being ended at this moment, on the session's thread
        future._wait()
        return source_of(future)
    if future._state != FINISHED or future._exception is not None:
        return Source("a future without a result", task=_ended(future))
    source = Source("the result of a task")
    source.entry, source.modules = pack_value(future._result)
    source.wanted = True
    with settling:
        future._source = future._source or source
        return future._source


def _named_source(future: FarmFuture[Any]) -> Source:
    """The session has the value, whatever this process has."""
    with settling:
        source, task = future._source, future._task
        if source is None or source.future is None:
            name = task.group.profile.name if task is not None else source.name if source is not None else ""
            made = Source(source.name if source is not None else f"the result of {name or 'task'!r}", future=future)
            made.large = source.large if source is not None else None
            source = future._source = made
        source.wanted = True
        return source


code_inputs.kinds[FarmFuture] = source_of


def check_sources(sources: list[Source], driver: Link) -> None:
    """Raise `BadOption` when one of them is of another farm or session, and its value is not here."""
    for at, source in enumerate(sources):
        if source.future is not None:
            sources[at] = _checked(source, source.future, driver)
        elif source.driver is not None and source.driver is not driver and source.entry is None:
            raise BadOption(
                f"{source.name} belongs to another Farm, whose nodes have it; give the call its result() instead"
            )


def _checked(source: Source, future: FarmFuture[Any], driver: Link) -> Source:
    """The same for a future of a named session. Elsewhere it can be no more than its value."""
    if future._session == driver.session_id:
        other = future._driver
        if not future.number and other is not None and other is not driver and not other.on_its_thread():
            other.flush(limits.REQUEST_S)  # this process has attached to the session twice
        if future.number or other is driver:
            return source
        raise BadOption(f"{source.name} was never stored in the session; submit again what makes it")
    if future._state != FINISHED or future._exception is not None:
        raise BadOption(f"{source.name} belongs to another session; give the call its result() instead")
    copy = Source(source.name)
    copy.entry, copy.modules = pack_value(future._result)
    return copy


def feed(future: FarmFuture[Any], inputs: list[Source]) -> Links | None:
    """Give a call its inputs. Returns what the core has to know of them."""
    future._inputs = tuple(inputs)
    tasks = [source.task for source in inputs if source.task is not None]
    return Links(tasks) if tasks else None


def starve(future: FarmFuture[Any], name: str, of: str, error: BaseException | None) -> None:
    """An input of this task, near or far, has ended without a value: so does its future. `of`: the input's name."""
    if future.done():
        return
    if error is None:  # cancelled, as what it was for
        future._withdraw()
        return
    if isinstance(error, InputFailed) and error.__cause__ is not None:  # what failed first, however far away
        of, error = error.of, error.__cause__
    source = f"its input {of!r}" if of else "an input"
    unfed = InputFailed(f"{name or 'task'}: did not run, because {source} failed: {type(error).__name__}: {error}")
    unfed.__cause__, unfed.of = error, of
    future._release()
    future.set_exception(unfed)


class Freight:
    """What a message carries for the calls in it that have inputs."""

    def __init__(self, batch: Batch) -> None:
        self.feeds: list[Feed] = []
        self.entries: list[Entry | None] = []
        self.refs: list[BlobRef] = []
        self._batch = batch
        self._places: dict[int, int] = {}
        for index, task in enumerate(batch.tasks):
            if task is not None and task.cargo._inputs:
                future = task.cargo
                places = tuple(self._place(source) for source in future._inputs)
                self.feeds.append(Feed(index, places, future._buffers))

    def _place(self, source: Source) -> int:
        place = self._places.get(id(source))
        if place is None:
            place = self._places[id(source)] = self._find(source)
        return place

    def _find(self, source: Source) -> int:
        place = self._batch.count + len(self.entries)
        if source.large is not None:
            large = source.large
            self.refs.append(BlobRef(place, large.id, large.size, large.path, large.mapped, source.name))
            self.entries.append(None)
        elif source.entry is not None:
            self.entries.append(source.entry)
        else:
            task = source.task
            assert task is not None
            assert task.token == self._batch.token, source.name
            return task.index
        return place


def spill(batch: Batch, driver: Link) -> list[Large]:
    """Move inline values beside the message where there are too many of them. Returns the large ones that it needs."""
    sources = {id(s): s for task in batch.tasks if task is not None for s in task.cargo._inputs}
    size = 0
    for source in sources.values():
        if source.large is None and type(source.entry) is bytes:
            size += len(source.entry)
            if len(source.entry) >= limits.INLINE_BYTES_MAX or size > limits.INPUT_BYTES_INLINE_MAX:
                source.lies(store_bytes(driver, source.entry), driver)
                source.entry = None
    return [source.large for source in sources.values() if source.large is not None]
