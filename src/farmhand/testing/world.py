"""A simulated world: sessions, nodes, a steward and an engine's queues, in virtual time, under faults chosen by a seed.

`run_seed(seed)` builds it, lets things happen, checks the invariants after each event, then mends everything and waits for
the world to come to rest. The sessions, holders and the membership in it are the product's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final, NamedTuple

from farmhand.core.tasks import Group
from farmhand.model.ids import kill_on_loss, session_id
from farmhand.model.needs import Lane, Need
from farmhand.model.retry import Retry
from farmhand.testing.actor import Actor
from farmhand.testing.calls import CRASH, DOOM, HANG, OK, RAISE, Call
from farmhand.testing.client import SimClient
from farmhand.testing.engine import Engine
from farmhand.testing.faults import Faults
from farmhand.testing.invariants import BrokenPromise, Invariants
from farmhand.testing.network import Network
from farmhand.testing.node import SimNode
from farmhand.testing.schedule import Schedule
from farmhand.testing.steward import SimSteward

REST_S: Final = 120.0  # after the faults have stopped; virtual
EVENTS_MAX: Final = 60_000  # more means that something goes round in circles
PROMPT_S: Final = 5.5  # a dead node's work is given back by the steward, long before the engine would
SLEEP_S: Final = 3600.0  # of all machines
WAKE_S: Final = 5.0  # until the last of them goes on: some are taken for dead then
CALM_S: Final = 15.0  # without another fault, for that to be demanded

LANES: Final = (
    Lane(),
    Lane((Need("cpus", "=", "2"),)),
    Lane((Need("gpu"),)),
    Lane(priority=5),
)
FATES: Final = (
    *[(OK,)] * 12,
    (RAISE,),
    (RAISE, OK),
    (RAISE, RAISE, RAISE, OK),
    (CRASH, OK),
    (CRASH,),
    (DOOM, OK),
    (DOOM,),
)


class Verdict(NamedTuple):
    """What came of a seed. `problem` is empty when every promise held."""

    seed: int
    problem: str
    events: int
    seconds: float  # virtual
    calls: int
    runs: int


class World:
    """See the head of this file."""

    def __init__(self, seed: int, trace: list[str] | None = None, *, sleeps: bool = False) -> None:
        self.seed = seed
        self.rng = rng = Random(seed)  # noqa: S311 - chance that can be repeated is the point
        self.trace = trace
        self.schedule = Schedule()
        self.network = Network(self, rng)
        self.invariants = Invariants(self)
        self.engine = Engine(self)
        self.steward = SimSteward(self)
        self.nodes: list[SimNode] = []
        self.clients: list[SimClient] = []
        self.healed = False
        self._disturbed_at: list[float] = [-CALM_S]
        self._lanes = [LANES[0], *rng.sample(LANES[1:], rng.choice((0, 0, 1, 2)))]
        calm = rng.random() < 0.25
        if calm:
            self.network.heal()
        span = rng.choice((2.0, 6.0, 15.0))
        self._make_nodes()
        self._make_clients(span, gentle=calm)
        self._faults = Faults(self, rng, rng.choice((0, 1)) if calm else rng.choice((1, 2, 4, 8, 14)), span)
        self._heal_at = span + 20 * rng.random()
        if sleeps:
            self.schedule.at(span * rng.random(), self.sleep, SLEEP_S * (0.5 + rng.random()))

    def log(self, text: str, *args: object) -> None:
        """One line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.schedule.now:9.4f}  {text % args}")

    # ---- making

    def _make_nodes(self) -> None:
        rng = self.rng
        self.steward.start()
        for number in range(rng.choice((1, 1, 2, 3))):
            slots = rng.choice((2, 3)) if number == 0 else rng.choice((1, 2, 3))
            gpu = {"gpu": "1"} if number == 0 or rng.random() < 0.3 else {}
            node = SimNode(self, f"n{number}", slots, {"cpus": str(slots), **gpu}, rng.choice((0.2, 2.0)))
            self.nodes.append(node)
            self.schedule.at(0.0 if number == 0 else rng.choice((0.0, 0.0, 3.0)), node.start)

    def _make_clients(self, span: float, *, gentle: bool) -> None:
        rng = self.rng
        for number in range(rng.choice((1, 1, 2, 3))):
            name = session_id(f"{number}", rng.choice(("kill", "kill", "finish")))
            client = SimClient(self, name, rng, rng.choice((0, 0, 0, 1, 3)))
            self.clients.append(client)
            client.start()
            made = 0
            for _ in range(rng.choice((1, 2, 3))):
                lane = rng.choice(self._lanes)
                retry = Retry(
                    rng.choice((0, 0, 1, 3)),
                    rng.choice((0.0, 0.1, 1.0)),
                    on=rng.choice((("error",), ("crash", "error"))),
                )
                group = client.group(lane, retry, rng.choice((0.0, 0.0, 0.5)))
                made = self._plan_calls(client, group, made, span, gentle=gentle)

    def _plan_calls(self, client: SimClient, group: Group, made: int, span: float, *, gentle: bool) -> int:
        """Bursts of calls of one group, and their cancels and kills; how many calls the session has by now."""
        rng = self.rng
        seconds = rng.choice((0.0001, 0.001, 0.004, 0.03, 0.3, 2.0))
        for _ in range(rng.choice((1, 1, 2))):
            calls = []
            for _ in range(rng.choice((1, 5, 20) if seconds < 1 else (1, 4))):
                fates = (OK,) if gentle else rng.choice(FATES)
                if not gentle and rng.random() < 0.1 and (group.profile.timeout or kill_on_loss(client.name)):
                    fates = (HANG,)
                slow = 100 if rng.random() < 0.1 else 1  # nobody could know that this one takes long
                takes = min(4.0, seconds * slow * (0.5 + rng.random()))
                calls.append(Call(client.name, made, fates, takes, rng.choice((10, 10, 100_000))))
                made += 1
            at = 0.3 + span * rng.random() ** 2
            self.schedule.at(at, client.fire, client.life, client.submit, (group, calls))
            stopped = rng.sample(calls, min(len(calls), rng.choice((1, 3)))) if rng.random() < 0.4 else []
            endless = [call for call in calls if HANG in call.fates and not group.profile.timeout]
            for call in stopped + endless:
                stop = client.cancel if call not in endless and rng.random() < 0.5 else client.stop
                when = at + rng.choice((0.005, 0.5, 5.0)) * rng.random()
                self.schedule.at(when, client.fire, client.life, stop, (call,))
        return made

    # ---- finding

    def node_named(self, name: str) -> SimNode:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def client_named(self, name: str) -> SimClient:
        """The session of that name."""
        return next(client for client in self.clients if client.name == name)

    def actors(self) -> Iterator[Actor]:
        """Every process but the engine."""
        yield self.steward
        yield from self.nodes
        yield from self.clients

    # ---- what faults do

    def disturb(self) -> None:
        """A fault happens now: nothing can be demanded to be prompt for a while."""
        self._disturbed_at.append(self.schedule.now)

    def restart_later(self, node: SimNode) -> None:
        """A node dies; its supervisor starts it again unless it was leaving."""
        if not node.alive:
            return
        incarnation, calm = node.incarnation, self.schedule.now - self._disturbed_at[-1] >= CALM_S
        self.disturb()
        node.kill()
        self.closed(f"node:{node.name}:{incarnation}")
        self.schedule.after(0.05 + 4 * self.rng.random() ** 3, self._start_node, node)
        if calm and self.network.well:
            self.schedule.after(PROMPT_S, self._check_given_back, incarnation, len(self._disturbed_at))

    def _start_node(self, node: SimNode) -> None:
        if not node.alive and not node.gone_for_good:
            node.start()

    def _check_given_back(self, incarnation: str, disturbances: int) -> None:
        if len(self._disturbed_at) != disturbances:
            return
        left = [message.sequence for message in self.engine.work.values() if message.holder == incarnation]
        if left:
            raise BrokenPromise(f"the work of {incarnation} was not given back within {PROMPT_S} s: {left}")

    def closed(self, name: str) -> None:
        """The engine tells the steward that a connection has closed, if both are well."""
        if self.engine.up:
            self.network.down(self.steward, self.steward.on_disconnected, (name,))

    def closed_of(self, actor: Actor, life: int) -> None:
        """The engine gives up a connection that is cut."""
        if actor.life != life or not actor.cut_up:
            return
        for node in self.nodes:
            if node is actor:
                self.engine.forget_pulls(node)
                self.closed(f"node:{node.name}:{node.incarnation}")
        if actor in self.clients:
            self.closed(f"session:{actor.name}")

    def engine_back(self) -> None:
        """The engine is up again, and everybody finds out."""
        if self.engine.up:
            return
        self.engine.start()
        for actor in self.actors():
            self.network.reconnect(actor)

    def sleep(self, seconds: float) -> None:
        """Every machine sleeps, the engine's too, and the clocks go on. The engine wakes first, the others in any order."""
        self.disturb()
        self.log("---- everything sleeps for %.0f s", seconds)
        for node in self.nodes:
            node.frozen_slots = True
        for actor in self.actors():
            actor.freeze()
        self.schedule.pass_over(seconds, [slot for node in self.nodes for slot in node.slots])
        self._heal_at += seconds
        for actor in self.actors():
            self.schedule.after(WAKE_S * self.rng.random() ** 2, self._wake, actor, actor.life)

    @staticmethod
    def _wake(actor: Actor, life: int) -> None:
        if actor.life == life:
            actor.thaw()

    def engine_has_space(self) -> None:
        """New work is taken again."""
        self.engine.full = False

    # ---- running

    def _heal(self) -> None:
        self.healed = True
        self.disturb()
        self.log("---- everything is mended")
        self.network.heal()
        self.engine.full = False
        self.engine_back()
        for actor in self.actors():
            actor.thaw()
            self.network.mend(actor)
        if not self.steward.alive:
            self.steward.start()
        for node in self.nodes:
            self._start_node(node)

    def run(self) -> None:
        """Raise `BrokenPromise` when one is broken."""
        schedule = self.schedule
        while schedule.next_at() < self._heal_at:
            self._step()
        schedule.now = self._heal_at
        self._heal()
        until, look_at = self._heal_at + REST_S, 0.0
        while True:
            if schedule.now >= look_at:
                unrest = self.invariants.unrest()
                if not unrest:
                    break
                if schedule.now > until:
                    raise BrokenPromise(unrest)
                look_at = schedule.now + 0.5
            self._step()
        self.invariants.at_rest()

    def _step(self) -> None:
        self.schedule.step()
        if self.schedule.events > EVENTS_MAX:
            raise BrokenPromise(f"more than {EVENTS_MAX} events")


def run_seed(seed: int, trace: list[str] | None = None, *, sleeps: bool = False) -> Verdict:
    """Run one world; `sleeps`: all of it, once. An exception of the core itself is a broken promise too."""
    world = World(seed, trace, sleeps=sleeps)
    problem = ""
    try:
        world.run()
    except BrokenPromise as broken:
        problem = str(broken)
    except (AssertionError, LookupError, ValueError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        if trace is not None:
            import traceback

            trace.append(traceback.format_exc())
    calls = [call for client in world.clients for call in client.calls]
    runs = sum(call.runs for call in calls)
    return Verdict(seed, problem, world.schedule.events, world.schedule.now, len(calls), runs)


def run_chunk(first: int, count: int, *, sleeps: bool = False) -> list[Verdict]:
    """Run the worlds of so many seeds."""
    return [run_seed(seed, sleeps=sleeps) for seed in range(first, first + count)]
