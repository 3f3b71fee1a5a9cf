"""Everything that crosses a process border, as types. The small readable headers; payloads are opaque bytes.

A message is a frame: 4 bytes big-endian length of the header, the header in MessagePack, then the body. The engine, the
steward and the agent read headers only; a body is unpickled by a slot or by the client that submitted the task.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Generic, TypeVar

import msgspec

from farmhand import errors
from farmhand.model import limits
from farmhand.model.needs import Lane
from farmhand.model.outcome import BlobRef, Mark

PROTOCOL: Final = 3  # raised when a peer of the old number would misread a message
_LENGTH: Final = struct.Struct(">I")
_HEADER_BYTES_MAX: Final = 4 * 1024 * 1024


Run = tuple[int, int, int]  # tasks of a named session: a block, the first index in it, how many


class State(msgspec.Struct, array_like=True, frozen=True):
    """What a call finds in the globals of the user's code, and what becomes of what it leaves there.

    start: the name of the state that it starts from; empty: as imports and the initializer left all.
    leave: the name under which its slot keeps what it leaves; empty: nobody sees it.
    process: it has a process of its own.
    """

    start: str = ""
    leave: str = ""
    process: bool = False


class Profile(msgspec.Struct, array_like=True, frozen=True):
    """What all tasks of a batch share. Equal profiles batch together."""

    code: str  # hash of the callable
    name: str = ""  # for people: status, labels, errors
    bundles: tuple[str, ...] = ()  # hashes of the user's modules
    initializer: str = ""  # hash of the initializer's code
    initargs: str = ""  # hash of its packed call
    timeout: float = 0.0  # seconds from the start of the run, 0 for none
    memory: int = 0  # bytes, 0 for no limit
    local: bool = False  # large values may travel as files on this machine
    state: State = State()
    result_max: int = 0  # bytes, 0 for no limit
    environment: str = ""  # hash of its recipe; empty: the node's own Python

    def code_names(self) -> list[str]:
        """The hashes of all code that a run needs."""
        return [code for code in (self.code, *self.bundles, self.initializer, self.initargs, self.environment) if code]


class Feed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where one call of a batch finds values that are not among its arguments.

    A place below the batch's `count` is the call at that index, which is ahead of this one. Others are entries of the body
    behind the calls, or the blob of that index.
    """

    index: int  # of the call
    places: tuple[int, ...]
    buffers: int = (
        0  # so many of the last places are memory of its arguments, pickled out of band; the others are inputs
    )


class Work(msgspec.Struct, array_like=True):
    """Header of a batch on `work.<lane>.<session>`. The body has `count` packed calls, and then values for them."""

    protocol: int
    session: str
    token: int
    count: int
    profile: Profile
    expected: float = 0.0  # seconds of work, 0 when unknown
    alone: bool = False  # announce the start before running: an earlier attempt was lost
    attempt: int = 1  # for people: the highest attempt number in the batch
    blobs: tuple[BlobRef, ...] = ()  # arguments and, from `count` on, values for `feeds` that travel beside the message
    origin: tuple[Run, ...] = ()  # of a named session's tasks, in order of index; reports repeat it
    numbers: tuple[int, ...] = ()  # for people: which tasks of the session these are, see `span_of`
    depth: int = 0  # how many tasks submitted one another above these
    feeds: tuple[Feed, ...] = ()


class Report(msgspec.Struct, array_like=True):
    """Header of a report on `res.<session>.<node>`: `count` tasks of the batch from index `first` on have ended.

    Indices without a mark succeeded. The body has one packed entry for each SUCCEEDED or RAISED task, in order of index.
    """

    protocol: int
    token: int
    first: int
    count: int
    node: str
    slot: int
    marks: tuple[Mark, ...] = ()
    seconds: float = 0.0  # wall time of the calls
    cpu: float = 0.0  # processor seconds
    blobs: tuple[BlobRef, ...] = ()
    origin: tuple[Run, ...] = ()  # as in the work
    sequence: int = 0  # of the work's message: which of two attempts at a task is the later one


class Preamble(msgspec.Struct):
    """What each beat and request to the steward begins with, whatever else its version has in it."""

    protocol: int
    version: str = ""


class WorkHead(msgspec.Struct, array_like=True):
    """The beginning of a `Work` of any protocol."""

    protocol: int
    session: str
    token: int
    count: int


class ReportHead(msgspec.Struct, array_like=True):
    """The beginning of a `Report` of any protocol."""

    protocol: int
    token: int
    first: int
    count: int
    node: str
    slot: int


class Started(msgspec.Struct, array_like=True):
    """On `ses.<session>.run.<node>`: index `index` of the batch is running now."""

    token: int
    index: int
    node: str
    slot: int
    place: tuple[int, int] = (0, 0)  # of a named session's task: its block, and its index in that


class Output(msgspec.Struct, array_like=True):
    """On `ses.<session>.out.<node>`: lines a task printed."""

    token: int
    index: int
    node: str
    slot: int
    name: str
    lines: tuple[tuple[int, str], ...]  # (1 stdout, 2 stderr), text without the newline
    dropped: int = 0  # lines left out by the rate limit since the last message
    number: int = 0  # of the task in its session


class Control(msgspec.Struct, array_like=True):
    """On `ctl.<session>`: a session's wish to every node."""

    kill: tuple[tuple[int, int], ...] = ()  # (token, index) to stop if running, to drop if not
    gone: bool = False  # the session has ended: stop everything of it
    unwanted: tuple[str, ...] = ()  # large values that no call to come needs


class Holding(msgspec.Struct, array_like=True, frozen=True):
    """A work message that an agent has and has not finished."""

    lane: str
    sequence: int
    session: str
    token: int
    count: int
    name: str = ""
    running: int = -1  # index running now, -1 while it waits for a slot
    seconds: float = 0.0  # since it started
    number: int = 0  # of the task that runs, in its session


class NodeBeat(msgspec.Struct):
    """On `node.<node>.beat` each BEAT_S."""

    protocol: int
    version: str
    node: str
    name: str
    incarnation: str
    host: str
    pid: int
    slots: int
    busy: int
    python: str
    capabilities: dict[str, str]
    holding: tuple[Holding, ...] = ()
    runs: int = 0
    failures: int = 0
    cpu_seconds: float = 0.0
    total_seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    code_fetches: int = 0  # blobs of code this agent fetched from the engine
    leaving: bool = False
    memory: int = 0  # bytes resident, of the agent
    slot_pids: tuple[int, ...] = ()
    ready: int = 0  # slots whose process has started


class SessionBeat(msgspec.Struct):
    """On `ses.<session>.beat` each BEAT_S."""

    protocol: int
    version: str
    session: str
    host: str
    pid: int
    user: str
    on_client_loss: str = "kill"
    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cpu_seconds: float = 0.0
    total_seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    lanes: tuple[str, ...] = ()
    ended: bool = False


class LaneRequest(msgspec.Struct):
    """To `api.lane`: make this lane if it is not there."""

    protocol: int
    version: str
    lane: Lane


class LaneState(msgspec.Struct):
    """A lane as the steward sees it: how many slots serve it now, and what the nodes lack when none does."""

    lane: Lane
    id: str
    slots: int
    lacking: tuple[str, ...] = ()


class LaneTable(msgspec.Struct):
    """On `farm.lanes` after each change, and the answer of `api.lanes`."""

    lanes: tuple[LaneState, ...]
    pythons: tuple[str, ...] = ()  # minor versions that connected nodes offer


class Gone(msgspec.Struct):
    """On `farm.gone`: sessions that have ended, incarnations that were declared lost, work that was given to others.

    through: the sequence up to which the sessions' messages were withdrawn; one may be on its way still. finish: what runs of
    them goes on.
    """

    sessions: tuple[str, ...] = ()
    incarnations: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    through: int = 0
    finish: bool = False


class JoinRequest(msgspec.Struct):
    """To `api.join`: enrol this public key."""

    protocol: int
    version: str
    public: str
    role: str  # "node" or "client"
    name: str


class ServerRequest(msgspec.Struct):
    """To `server.join`: let this machine be a further server of the cluster."""

    protocol: int
    version: str


class ServerWelcome(msgspec.Struct):
    """What every server of a cluster knows. `register` is JSON. `replaces`: the dead server whose place is free."""

    register: str
    secret: str
    ca: str
    ca_key: str
    seeds: dict[str, str]
    replaces: str = ""


class Answer(msgspec.Struct):
    """What an `api` request is answered with: an error text or a result."""

    error: str = ""
    kind: str = ""  # the name of the error class that the text belongs to
    result: Any = None


def place_at(origin: tuple[Run, ...], index: int) -> tuple[int, int]:
    """The place of a batch's task `index`; (0, 0) when it is no named session's."""
    for block, first, count in origin:
        if index < count:
            return block, first + index
        index -= count
    return 0, 0


def span_of(numbers: list[int]) -> tuple[int, ...]:
    """The numbers of a batch's tasks as `Work` carries them: only the first when they follow one another."""
    first = numbers[0]
    return (first,) if numbers == list(range(first, first + len(numbers))) else tuple(numbers)


def number_of(block: int, index: int) -> int:
    """The number of a named session's task, made of its place: unique, the same for everybody, and not dense."""
    return block * limits.BLOCK_TASKS_MAX + index


def place_of(number: int) -> tuple[int, int]:
    """The place that `number_of` made it of."""
    return divmod(number, limits.BLOCK_TASKS_MAX)


def number_at(work: Work, index: int) -> int:
    """The number of one task of a batch, 0 when it is not known."""
    numbers = work.numbers
    if work.count == 1:
        index = 0  # also when nobody knows any more what ran
    if not 0 <= index < work.count:
        return 0
    if work.origin:
        return number_of(*place_at(work.origin, index))
    if not numbers:
        return 0
    return numbers[0] + index if len(numbers) == 1 else numbers[index] if index < len(numbers) else 0


def pack(header: msgspec.Struct, body: bytes | bytearray | memoryview = b"") -> bytes:
    """One frame of a header and its body."""
    head = msgspec.msgpack.encode(header)
    return b"".join((_LENGTH.pack(len(head)), head, body))


def split(frame: bytes | bytearray | memoryview) -> tuple[memoryview, memoryview]:
    """The header's bytes and the body of a frame. Raises `BadMessage`."""
    view = memoryview(frame)
    if len(view) < 4:
        raise errors.BadMessage(f"a frame of {len(view)} bytes")
    (size,) = _LENGTH.unpack(view[:4])
    if size > _HEADER_BYTES_MAX or size + 4 > len(view):
        raise errors.BadMessage(f"a header of {size} bytes in a frame of {len(view)}")
    return view[4 : 4 + size], view[4 + size :]


T = TypeVar("T")


class Codec(Generic[T]):
    """Decodes one type of message. What cannot be decoded is a `BadMessage`, never another error."""

    __slots__ = ("_decode", "_kind")

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def __call__(self, data: bytes | bytearray | memoryview) -> T:
        """Decode. Raises `BadMessage`."""
        try:
            return self._decode(data)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:  # ValueError: no UTF-8
            raise errors.BadMessage(f"not a {self._kind.__name__}: {error}") from error


encode: Final = msgspec.msgpack.Encoder().encode
read_preamble: Final = Codec(Preamble)
read_work_head: Final = Codec(WorkHead)
read_report_head: Final = Codec(ReportHead)
read_work: Final = Codec(Work)
read_report: Final = Codec(Report)
read_started: Final = Codec(Started)
read_output: Final = Codec(Output)
read_control: Final = Codec(Control)
read_node_beat: Final = Codec(NodeBeat)
read_session_beat: Final = Codec(SessionBeat)
read_lane_request: Final = Codec(LaneRequest)
read_lane_table: Final = Codec(LaneTable)
read_lane_state: Final = Codec(LaneState)
read_gone: Final = Codec(Gone)
read_join: Final = Codec(JoinRequest)
read_server_request: Final = Codec(ServerRequest)
read_answer: Final = Codec(Answer)
read_holdings: Final = Codec(tuple[Holding, ...])
