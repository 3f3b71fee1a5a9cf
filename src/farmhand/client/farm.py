"""`Farm`: a `concurrent.futures.Executor` on a farm of any size."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import msgspec

from farmhand import errors
from farmhand.client import ending
from farmhand.client.environments import Environment, as_recipe, check_call, checked_calls, offer
from farmhand.client.futures import FarmFuture
from farmhand.client.mapping import map_all, map_lazily
from farmhand.client.options import SessionOptions, TaskOptions, as_name, as_retry, as_state, as_timeout, own_lane
from farmhand.code.hashing import content_hash
from farmhand.code.pack import Packer
from farmhand.code.values import estimate_size
from farmhand.core.tasks import Group, Task
from farmhand.model import limits
from farmhand.model.messages import Profile
from farmhand.model.retry import Retry
from farmhand.node.monitor import usable_cores

if TYPE_CHECKING:
    from farmhand.client.current import CurrentFarm
    from farmhand.client.embedded import EmbeddedFarm
    from farmhand.client.inputs import Source
    from farmhand.client.link import DriverConfig, Link
    from farmhand.client.session import Session
    from farmhand.client.shared import Ref
    from farmhand.core.tasks import Links

P = ParamSpec("P")
T = TypeVar("T")
Env = str | os.PathLike[str] | Sequence[str] | Environment


class _View(Executor):
    """What a `Farm` and a view on it share: submitting with one set of options."""

    _options: TaskOptions
    _eager = True  # what has a length is submitted at once

    @property
    def _farm(self) -> Farm:
        raise NotImplementedError

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Farm belongs to its process and cannot be sent to a task; there, open one with Farm(address)"
        )

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> FarmFuture[T]:
        """Run `fn(*args, **kwargs)` on the farm. All keyword arguments are the function's own.

        Raises: what pickling the function or an argument raises; `RuntimeError` after `shutdown`; `EngineFull` while the
        engine has no space for new work; a `BrokenExecutor` when the farm can run nothing more.
        """
        return self._farm._submit(self._options, fn, args, kwargs)

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None,
            chunksize: int = 1, buffersize: int | None = None) -> Iterator[Any]:  # fmt: skip
        """As `Executor.map`, results in order.

        Iterables that all have a length are submitted at once. With an iterator among them, or with `buffersize`, at most so
        many calls are under way (4096 by default), and more are submitted as results are taken. `chunksize` is accepted;
        the farm finds its own.
        Raises: from the iterator, the first error of a call; `TimeoutError` `timeout` seconds after this call.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and type(buffersize) is not int:
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        submit_many = functools.partial(self._farm._submit_many, self._options, fn)
        calls = zip(*iterables, strict=False)
        if buffersize is None and self._eager and all(hasattr(it, "__len__") for it in iterables):
            return map_all(submit_many, calls, timeout)
        return map_lazily(submit_many, calls, timeout, buffersize or limits.MAP_AHEAD)

    def options(self, *, needs: Iterable[str] = (), retries: int | Retry = 0, timeout: float | None = None,
                priority: int = 0, name: str = "", state: str = "fresh", env: Env | None = None) -> FarmView:  # fmt: skip
        """An Executor on the same farm whose submissions have these options.

        needs: what the node must have, for example `["cpus=2", "mem=8GiB", "latex"]`. retries: how often to run again, or a
        `Retry`. timeout: seconds from the start of the run. priority: -100 to 100, higher first. name: for people.
        state: what a call finds in the globals of your code: `"fresh"`, as imports and the initializer left them; `"session"`, as the
        last call of this session in the same slot left them; `"process"`, fresh in a process of its own. env: the environment
        that they run in, as for `Farm`; without it that of the Farm, `[]` for the node's own Python.
        Raises: `BadNeed`, `BadOption`.
        """
        recipe = self._farm._options.recipe if env is None else as_recipe(env)
        kept = as_state(state, self._farm.session)
        given = TaskOptions(
            lane=own_lane(needs, priority, recipe, process=kept.process), retry=as_retry(retries),
            timeout=as_timeout(timeout), name=as_name(name), state=kept, recipe=recipe,
        )  # fmt: skip
        return FarmView(self._farm, given)


class FarmView(_View):
    """A farm seen with options. Closing it closes nothing; the farm stays open."""

    def __init__(self, farm: Farm, options: TaskOptions) -> None:
        self._whole = farm
        self._options = options

    @property
    def _farm(self) -> Farm:
        return self._whole

    @property
    def _max_workers(self) -> int:
        return self._farm._max_workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to do: the farm itself is closed by its owner."""


class Farm(_View):
    """A `concurrent.futures.Executor` on a farm.

    address: a name saved with `farmhand use`, `tls://host:port`, `nats://`, `ws://`, `wss://`, or a join line; without one
        what the settings name (`farmhand config`), and without that an embedded farm, which ends with this object.
    max_workers: slots of an embedded farm (default: one per usable core); with an address, how many batches of tasks this
        client keeps under way at most.
    initializer, initargs: run once in each slot before its first task of this Farm.
    on_client_loss: `"kill"` stops this client's running tasks when it dies, `"finish"` lets them end. What waits is withdrawn.
    output: whether what tasks print reaches this process's terminal. `farmhand logs` shows it in any case.
    nodes: agents of an embedded farm; its slots are shared out among them.
    session: the name of a session that outlives this client, or `SessionOptions`; then this is a `Session`.
    shared_memory: on a farm that is all on this machine large values go through its memory; `False` sends them through the
        engine, as between machines.
    env: what tasks find installed, built once on each node by `uv`: a list of requirements, a requirements file, a version of
        Python such as `"3.12"`, or an `Environment`. Without it the node's own Python.

    Raises: `BadAddress`, `BadOption`, `EngineUnreachable`, `CredentialRefused`, `CredentialMissing`, `VersionMismatch`, within 5 s.
    """

    def __init__(self, address: str | None = None, *, max_workers: int | None = None,
                 initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = (),
                 on_client_loss: str = "kill", output: bool = True, nodes: int = 1,
                 shared_memory: bool = True, session: str | SessionOptions | None = None,
                 env: Env | None = None) -> None:  # fmt: skip
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if on_client_loss not in ("kill", "finish"):
            raise errors.BadOption(f"on_client_loss={on_client_loss!r}: 'kill' or 'finish'")
        from farmhand.client import opening  # here, because a task that asks for `current` needs nothing of it

        address = opening.chosen_farm(address)
        if session is not None:
            self._become_session(session, address)
        recipe = None if env is None else as_recipe(env)
        self._options = TaskOptions(lane=own_lane(recipe=recipe), recipe=recipe)
        self._initializer = (initializer, initargs)
        self._max_workers = max_workers or usable_cores()
        self._packer = Packer()
        self._groups: dict[tuple[Any, ...], Group] = {}
        self._closed = False
        self._address = address
        self._embedded: EmbeddedFarm | None = None
        config = opening.DriverConfig(connect=lambda: None, on_client_loss=on_client_loss, output=output)  # type: ignore[arg-type,return-value]
        if address is None:
            self._embedded = embedded = opening.EmbeddedFarm(_share(self._max_workers, nodes))
            config.connect = embedded.options
        else:
            config.connect, config.spool = opening.remote_login(address)
            config.bound = max_workers or 0
        self._driver = self._new_driver(config, session)
        self._shared = opening.SharedMemory(self._driver)
        self._start()
        if not shared_memory:
            config.spool = ""
        if self._embedded is None and max_workers is None:  # what libraries that take an Executor read
            self._max_workers = int(self._driver.farm["slots"]) or self._max_workers
        self._base = self._first_profile(Profile("", local=bool(config.spool)))
        ending.remember(self)
        if initializer is not None:
            try:
                self._base = self._with_initializer(initializer, initargs)
            except BaseException:
                self.shutdown()
                raise

    @staticmethod
    def current() -> CurrentFarm:
        """Inside a task: the farm that runs it, as an Executor whose tasks end with this one. See `CurrentFarm`.

        Raises: `NotInTask` outside of a task.
        """
        from farmhand.client.current import current

        return current()

    @property
    def _farm(self) -> Farm:
        return self

    def _become_session(self, session: str | SessionOptions, address: str | None) -> None:
        from farmhand.client.session import Session

        if address is None:
            raise errors.BadOption(
                f"session={session!r}: a session that outlives this process needs a farm that does; start one with "
                "`farmhand up`, and give its address"
            )
        self.__class__ = Session

    def _new_driver(self, config: DriverConfig, _session: str | SessionOptions | None) -> Link:
        from farmhand.client.driver import Driver

        return Driver(config)

    def _first_profile(self, profile: Profile) -> Profile:
        """What all tasks of this farm have."""
        return profile

    def _start(self) -> None:
        try:
            self._driver.start()
            if self._embedded is not None:
                self._driver.config.spool = self._embedded.wait_ready().spool
        except BaseException:
            self._driver.abandon_start()
            if self._embedded is not None:
                self._embedded.close()
            raise
        self._finalizer = weakref.finalize(self, ending.finish_in_background, self._driver, self._embedded)

    def _with_initializer(self, initializer: Callable[..., object], initargs: tuple[Any, ...]) -> Profile:
        import pickle

        code = self._packer.code_for(initializer)
        entry, bundles = self._packer.pack_call(initargs, {})
        call = entry if isinstance(entry, bytes) else pickle.dumps((entry, {}), 5)
        for name, blob in ((code.hash, code.blob), (content_hash(call), call)):
            self._driver.sender.offer_code(name, blob)
        self._offer_bundles((*code.bundles, *bundles))
        needed = tuple(sorted({*code.bundles, *bundles}))
        return msgspec.structs.replace(self._base, initializer=code.hash, initargs=content_hash(call), bundles=needed)

    # ---- submitting

    def _submit(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> FarmFuture[Any]:
        self._check_open()
        if options.recipe is not None:
            check_call(options.recipe, fn, args, kwargs, self._initializer)
        future: FarmFuture[Any] = FarmFuture(self._driver)
        inputs: list[Source] = []
        entry, size, bundles = self._pack(args, kwargs, inputs, future)
        group = self._group(options, fn, bundles)
        future._entry = entry
        future._task = task = Task(group, size, future)
        if inputs:
            task.links = _feed(future, inputs)
        self._driver.submit(group, task)
        return future

    def _submit_many(
        self, options: TaskOptions, fn: Callable[..., Any], calls: Iterable[tuple[Any, ...]]
    ) -> list[FarmFuture[Any]]:
        """The same for many calls of one function; the function is packed once."""
        self._check_open()
        driver, pack = self._driver, self._pack
        plain = self._group(options, fn, ())
        futures: list[FarmFuture[Any]] = []
        tasks: list[Task] = []
        inputs: list[Source] = []
        for args in checked_calls(options.recipe, (fn, self._initializer), calls):
            future: FarmFuture[Any] = FarmFuture(driver)
            entry, size, bundles = pack(args, {}, inputs, future)
            group = plain if not bundles else self._group(options, fn, bundles)
            if tasks and tasks[-1].group is not group:
                driver.submit_many(tasks[-1].group, tasks)
                tasks = []
            future._entry = entry
            future._task = task = Task(group, size, future)
            future._stays = False  # map gives it to nobody, so it can serve no call
            if inputs:
                task.links = _feed(future, inputs)
                inputs = []
            tasks.append(task)
            futures.append(future)
            if len(tasks) >= limits.BATCH_TASKS_MAX * 4:  # the farm starts while the caller goes on packing
                driver.submit_many(group, tasks)
                tasks = []
        if tasks:
            driver.submit_many(tasks[-1].group, tasks)
        return futures

    def _bundles_of(self, inputs: list[Source], bundles: tuple[str, ...]) -> tuple[str, ...]:
        """The bundles of a call's arguments with those that its inputs need. Raises `BadOption` for one of another farm."""
        if inputs:
            from farmhand.client.inputs import check_sources

            check_sources(inputs, self._driver)
        self._offer_bundles(bundles)
        for source in inputs:
            if source.modules:
                source.bundles, source.modules = self._packer.bundles_of(source.modules), set()
                self._offer_bundles(source.bundles)
        return tuple(sorted({*bundles, *(bundle for source in inputs for bundle in source.bundles)}))

    @property
    def _broken(self) -> bool:
        """As a standard pool says it: nothing more can run."""
        return self._driver.broken is not None

    def _check_open(self) -> None:
        if self._closed or ending.interpreter_ends():
            raise RuntimeError("cannot schedule new futures after shutdown" if self._closed else
                               "cannot schedule new futures after interpreter shutdown")  # fmt: skip
        driver = self._driver
        if driver.broken is not None:
            if isinstance(driver.broken, errors.SessionUnknown):
                raise errors.SessionUnknown(str(driver.broken))
            if isinstance(driver.broken, errors.InitializerFailed):
                raise errors.InitializerFailed(str(driver.broken))
            raise errors.FarmClosed(f"the farm can run nothing more: {driver.broken}") from driver.broken
        driver.check_room()

    def _pack(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Source], future: FarmFuture[Any]
    ) -> tuple[Any, int, tuple[str, ...]]:
        """The call's entry, its size in bytes, and the bundles its arguments need. `inputs` takes its inputs."""
        if not args and not kwargs:
            return args, 64, ()
        if estimate_size(args, kwargs) < limits.INLINE_BYTES_MAX:
            entry, bundles = self._packer.pack_call(args, kwargs, inputs)
            if type(entry) is tuple:
                return entry, 64, ()
            if len(entry) < limits.INLINE_BYTES_MAX:
                return entry, len(entry), self._bundles_of(inputs, bundles) if inputs or bundles else ()
            inputs.clear()
        from farmhand.client.shared import pack_large

        packed = pack_large(self._driver, self._packer, args, kwargs, inputs)
        bundles = self._bundles_of(inputs, packed.bundles)
        views = [self._shared.source_for(view) for view in packed.views]
        inputs += views
        future._buffers = len(views)
        return packed.entry, packed.size, bundles

    def scatter(self, obj: Any) -> Ref:
        """Put an object on the farm once, and return a reference: in a call of this Farm, at any depth, it is the object.

        Each node fetches it when a call there first needs it, and keeps it for the next ones; the slots of a machine share its
        arrays and tables, which are read-only. It is removed when neither the reference nor a call needs it; that of a named
        session stays until the session is removed.
        Raises: what pickling it raises; `EngineFull`; as `submit`.
        """
        from farmhand.client.shared import scatter

        self._check_open()
        return scatter(self._driver, obj)

    def _offer_bundles(self, bundles: Iterable[str]) -> None:
        for bundle in bundles:
            self._driver.sender.offer_code(bundle, self._packer.bundle(bundle).blob)

    def _group(self, options: TaskOptions, fn: Callable[..., Any], bundles: tuple[str, ...]) -> Group:
        """The group of a callable under these options, made when it is new."""
        code = self._packer.code_for(fn)
        if bundles:
            bundles = tuple(bundle for bundle in bundles if bundle not in code.bundles)  # equal needs, equal groups
        key = (code.hash, code.bundles, bundles, options)
        group = self._groups.get(key)
        if group is None:
            self._driver.sender.offer_code(code.hash, code.blob)
            self._offer_bundles(code.bundles)
            union = tuple(sorted({*code.bundles, *bundles, *self._base.bundles}))
            name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or type(fn).__name__
            recipe = offer(self._driver, options.recipe)
            group = Group(options.lane, options.profile(code.hash, str(name), union, self._base, recipe), options.retry)
            if len(self._groups) >= limits.GROUPS_MAX:
                for old in [k for k, g in list(self._groups.items()) if not g.active][: limits.GROUPS_MAX // 2]:
                    self._groups.pop(old, None)
            self._groups[key] = group
        return group

    # ---- looking and ending

    def status(self) -> dict[str, Any]:
        """The farm as `farmhand status --json` shows it. Raises `EngineError` when the steward does not answer."""
        found: dict[str, Any] = self._driver.ask("status")
        return found

    def progress(self, futures: Iterable[FarmFuture[T]], *, title: str = "") -> Iterator[FarmFuture[T]]:
        """As `concurrent.futures.as_completed`, with a bar that is updated in place, on a terminal and in a notebook."""
        from farmhand.client.progress import progress

        return progress(list(futures), title)

    def attach(self, session: str) -> Session:
        """The named session of this farm: its futures, and more submits. It must exist. Raises `SessionUnknown`."""
        return cast("Session", Farm(self._address, session=SessionOptions(session, create=False)))

    @property
    def session(self) -> str:
        """The id of this client's session."""
        return self._driver.session_id

    def __exit__(self, exc_type: type[BaseException] | None, exc_val: object, exc_tb: object) -> bool | None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self._abandon()
        else:
            self.shutdown(wait=True)
        return None

    def _abandon(self) -> None:
        """After Ctrl-C nobody wants to wait for what is left: as `shutdown`, and what runs fares as when the client dies."""
        self._closed = True
        ending.opened.discard(self)
        if self._finalizer.detach() is not None:
            self._driver.abandon()
            if self._embedded is not None:
                self._embedded.close()

    def _end(self) -> None:
        """The interpreter ends, and this farm was not shut down."""
        self.shutdown(wait=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. `wait`: return when every task has its outcome and everything is closed.

        With `cancel_futures` what is not running is cancelled. Without `wait` the same happens in the background.
        """
        self._closed = True
        ending.opened.discard(self)
        if cancel_futures:
            self._driver.cancel_waiting()
        if wait:
            self._driver.wait_all()
            if self._finalizer.detach() is not None:
                ending.close(self._driver, self._embedded)
        else:
            self._finalizer()

    def __repr__(self) -> str:
        where = "embedded" if self._embedded else str(self._driver.connection.options.address)
        return f"<Farm {where} session={self.session}{' closed' if self._closed else ''}>"

    def _repr_html_(self) -> str:
        import html

        counts = self._driver.counts
        said = (("waiting or running", self._driver.open), ("done", counts.done), ("failed", counts.failed),
                ("cancelled", counts.cancelled))  # fmt: skip
        cells = "".join(f"<td>{name}: <b>{count:,}</b></td>" for name, count in said)
        return f"<table><caption>{html.escape(repr(self)[1:-1])}</caption><tr>{cells}</tr></table>"


def _feed(future: FarmFuture[Any], inputs: list[Source]) -> Links | None:
    from farmhand.client.inputs import feed

    return feed(future, inputs)


def _share(slots: int, nodes: int) -> tuple[int, ...]:
    """Slots of each of an embedded farm's nodes."""
    if not 1 <= nodes <= slots:
        raise errors.BadOption(f"nodes={nodes}: at least 1, and at most the number of slots ({slots})")
    return tuple(slots // nodes + (1 if i < slots % nodes else 0) for i in range(nodes))
