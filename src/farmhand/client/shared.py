"""Objects that are put near the nodes once: what `farm.scatter` gives, and large memory that arguments have in common."""

from __future__ import annotations

import hashlib
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from farmhand.client.inputs import Source
from farmhand.client.large import Large, LateUpload, Uploader, remove_file
from farmhand.code import inputs as code_inputs
from farmhand.code.container import write_mapped
from farmhand.code.memory import view_of
from farmhand.code.values import Buffer, estimate_size, pack_value
from farmhand.model import limits

if TYPE_CHECKING:
    from farmhand.client.link import Link
    from farmhand.code.pack import Packer

T = TypeVar("T")

_SAMPLES: Final = 16
_SAMPLE_BYTES: Final = 256
_COMPARED_BYTES: Final = 64 * 1024  # at a time: stays in the processor's cache, and malloc needs no fresh pages for it


class Ref:
    """An object on the farm; see `Farm.scatter`. In a call of its Farm, as an argument or a part of one, it is the object."""

    __slots__ = ("__weakref__", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def nbytes(self) -> int:
        """Bytes that it takes on the farm; 0 for a small one, which travels in the messages."""
        return self._source.large.size if self._source.large is not None else 0

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Ref belongs to the Farm that made it: give it to a call of that Farm as an argument, or part of one"
        )

    def __repr__(self) -> str:
        return f"<Ref {self._source.name}, {self.nbytes} bytes>"


def _source_of_ref(ref: Ref) -> Source:
    return ref._source


code_inputs.kinds[Ref] = _source_of_ref


def store(driver: Link, fill: Callable[[Callable[[Buffer], object]], T]) -> tuple[Large, T]:
    """Put what `fill` writes beside the messages: a file that the slots can open, or chunks in the engine.

    Raises what `fill` raises; `EngineFull`.
    """
    blob_id = driver.new_blob()
    if driver.config.spool:
        path = Path(driver.config.spool) / f"a-{driver.session_id}-{blob_id}"
        try:
            with path.open("wb") as file:
                told = fill(file.write)
                return Large(blob_id, file.tell(), str(path)), told
        except BaseException:
            remove_file(str(path))
            raise
    if driver.on_its_thread():
        late = LateUpload(driver, blob_id)
        told = fill(late.write)
        return Large(blob_id, late.size, later=late), told
    uploader = Uploader(driver, blob_id)
    try:
        told = fill(uploader.write)
        uploader.finish()
    except BaseException:
        uploader.withdraw()
        raise
    return Large(blob_id, uploader.writer.size), told


def scatter(driver: Link, obj: Any) -> Ref:
    """See `Farm.scatter`."""
    name = f"the object of type {type(obj).__name__} that was scattered"
    if estimate_size((obj,), {}) < limits.INLINE_BYTES_MAX:
        entry, modules = pack_value(obj)
        if type(entry) is tuple or len(entry) < limits.INLINE_BYTES_MAX:
            small = Source(name, entry=entry, driver=driver)
            small.modules, small.wanted = modules, True
            return Ref(small)
    large, (mapped, modules) = store(driver, lambda write: write_mapped(obj, write))
    large.mapped = mapped
    source = Source(name)
    source.lies(large, driver)
    source.modules, source.wanted = modules, True
    return Ref(source)


class SharedMemory:
    """The large buffers of arguments that calls under way have. Equal ones are stored once, as long as a call needs them.

    An object may have changed since the last call, so what it holds is compared, with a file at the speed of memory, and with what
    is in the engine by its hash. Only `bytes`, which cannot change, are known by what they are.
    """

    def __init__(self, driver: Link) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._lingering: list[Source] = []  # used last goes last
        self._until = 0.0
        self._known: dict[tuple[int, bytes], list[weakref.ref[Source]]] = {}

    def source_for(self, view: memoryview) -> Source:
        """What holds this memory on the farm. Raises as `store`."""
        local = bool(self._driver.config.spool)
        key = (view.nbytes, _sample(view) if local else hashlib.blake2b(view, digest_size=32).digest())
        with self._lock:
            for found in self._alive(key):
                if not local or _is_origin(found.origin, view) or _holds(found, view):
                    return self._linger(found)
        large, _ = store(self._driver, lambda write: write(view))
        source = Source("memory of an argument")
        source.lies(large, self._driver)
        source.origin = _immutable(view)
        source.wanted = True
        with self._lock:
            self._known.setdefault(key, []).append(weakref.ref(source))
            if len(self._known) > limits.SHARED_KNOWN_MAX:
                self._known = {k: refs for k, refs in self._known.items() if any(ref() is not None for ref in refs)}
            return self._linger(source)

    def _linger(self, source: Source) -> Source:
        """Keep it for a moment after its last call. Needs the lock."""
        driver = self._driver
        if source in self._lingering:
            self._lingering.remove(source)
        elif not self._lingering:
            driver.loop.call_soon_threadsafe(driver.loop.call_later, limits.SHARED_KEPT_S, self._let_go)
        self._lingering.append(source)
        self._until = time.monotonic() + limits.SHARED_KEPT_S
        while sum(kept.large.size for kept in self._lingering if kept.large) > limits.SHARED_KEPT_BYTES:
            self._lingering.pop(0)
        return source

    def _let_go(self) -> None:
        with self._lock:
            left = self._until - time.monotonic()
            if left > 0 and self._lingering:
                self._driver.loop.call_later(left, self._let_go)
            else:
                self._lingering.clear()

    def _alive(self, key: tuple[int, bytes]) -> Iterator[Source]:
        for ref in self._known.get(key, ()):
            if (source := ref()) is not None:
                yield source


def _is_origin(origin: Any, view: memoryview) -> bool:
    return origin is not None and origin is _immutable(view)


def _immutable(view: memoryview) -> bytes | None:
    """The `bytes` that this is the whole of."""
    owner = view.obj
    while type(owner) is memoryview:
        owner = owner.obj
    return owner if type(owner) is bytes and len(owner) == view.nbytes else None


def _sample(view: memoryview) -> bytes:
    """Tells most buffers apart without reading them."""
    step = max(1, view.nbytes // _SAMPLES)
    return hashlib.blake2b(b"".join(bytes(view[i : i + _SAMPLE_BYTES]) for i in range(0, view.nbytes, step))).digest()


def _holds(source: Source, view: memoryview) -> bool:
    """Whether the file of a source has these bytes."""
    assert source.large is not None
    try:
        with Path(source.large.path).open("rb") as file, view_of(file, writable=False) as stored:
            pieces = range(0, view.nbytes, _COMPARED_BYTES)
            return all(stored[at : at + _COMPARED_BYTES] == view[at : at + _COMPARED_BYTES].tobytes() for at in pieces)
    except (OSError, ValueError):
        return False


class OutOfBand:
    """Takes the large buffers out of a pickle; see `pickle.Pickler(buffer_callback=)`."""

    def __init__(self) -> None:
        self.views: list[memoryview] = []

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """False when the buffer was taken."""
        try:
            view = buffer.raw()
        except BufferError:  # not in one piece
            return True
        if view.nbytes < limits.SHARED_BYTES_MIN:
            return True
        self.views.append(view)
        return False


class TooLarge(BaseException):
    """More was written than fits into a message. No error: nobody on the way may take it for one."""


class Inline:
    """Collects what fits into a message. Raises `TooLarge`."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: Buffer) -> None:
        """One more piece."""
        if len(self.data) + memoryview(data).nbytes >= limits.INLINE_BYTES_MAX:
            raise TooLarge
        self.data += data


def in_one_piece(value: Any) -> Any:
    """A large `bytes` in a form whose memory is taken out of the pickle. It arrives as `bytes`."""
    return memoryview(value) if type(value) is bytes and len(value) >= limits.SHARED_BYTES_MIN else value


class Packed(NamedTuple):
    """Large arguments: their entry, their size, the bundles that they need, and the memory that is beside the entry."""

    entry: bytes | Large
    size: int
    bundles: tuple[str, ...]
    views: list[memoryview]


def pack_large(
    driver: Link, packer: Packer, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Source]
) -> Packed:
    """Pack arguments, with large buffers out of band. The rest goes into the message if it fits, and beside it if not."""
    args = tuple(map(in_one_piece, args))
    kwargs = {name: in_one_piece(value) for name, value in kwargs.items()}
    taken, inline = OutOfBand(), Inline()
    if not driver.shares_memory:  # all of a call travels together: the steward sends it again without its client
        large, bundles = store(driver, lambda write: packer.pack_call_into(args, kwargs, write, inputs))
        return Packed(large, 128, bundles, [])
    try:
        bundles = packer.pack_call_into(args, kwargs, inline.write, inputs, taken)
    except TooLarge:
        inputs.clear()
        taken.views.clear()
        large, bundles = store(driver, lambda write: packer.pack_call_into(args, kwargs, write, inputs, taken))
        return Packed(large, 128, bundles, taken.views)
    size = len(inline.data) + sum(view.nbytes for view in taken.views)
    return Packed(bytes(inline.data), min(size, limits.BATCH_BYTES_MAX), bundles, taken.views)
