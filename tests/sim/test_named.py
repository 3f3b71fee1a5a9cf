"""Named sessions: any order of submits, reports, losses, refused stores and deaths of the caretaker keeps every promise."""

from __future__ import annotations

import pytest
from tests.sim.mutations import Mutation
from tests.sim.named_mutations import NAMED_MUTATIONS
from tests.sim.named_world import LANES, World

from farmhand.core import named, session
from farmhand.core.settling import Store
from farmhand.model import limits, messages
from farmhand.model.messages import Feed, Profile, Report, Work
from farmhand.model.named import Block, Tried
from farmhand.model.outcome import Kind, Mark
from farmhand.model.retry import Retry

SEEDS_MAX = 400  # within which a mutation must be noticed


def check_seed(seed: int) -> None:
    """One world from its beginning to its rest; raises `AssertionError` when a promise is broken."""
    world = World(seed)
    world.storm(400)
    world.settle()
    outcomes = world.outcomes()
    assert outcomes.keys() >= world.inputs.keys(), f"seed {seed}: a task with inputs was forgotten"
    world.check_inputs(outcomes)
    counted = world.counted()
    for sequence, block in counted.items():
        for place in ((sequence, index) for index in range(block.count)):
            assert place in outcomes, f"seed {seed}: {place} was forgotten"
            kind, outcome = outcomes.pop(place)
            if kind in (Kind.SUCCEEDED, Kind.RAISED):
                assert outcome in world.values[place], f"seed {seed}: a value of another task"
            assert world.runs[place] <= 1 + world.excused[place], f"seed {seed}: {place} ran too often"
            assert world.failed[place] <= 1 + block.retry.max, f"seed {seed}: {place} was tried too often"
            if block.profile.code == "hopeless" and kind is Kind.RAISED:
                assert world.failed[place] == 1 + block.retry.max, f"seed {seed}: {place} was given up too soon"
    assert not outcomes, f"seed {seed}: outcomes of nobody"
    before = totals(world)
    world.live()
    assert before == totals(world), f"seed {seed}: the next life counts otherwise"
    assert world.core.open == 0
    assert world.core.submitted == sum(block.count for block in counted.values())


def totals(world: World) -> tuple[int, ...]:
    counts = world.core.counts
    return counts.done, counts.failed, counts.cancelled, world.core.submitted, world.core.low


@pytest.fixture(autouse=True)
def few_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BLOCK_AHEAD_TASKS", 10)  # so that blocks are parked
    monkeypatch.setattr(limits, "BLOCK_IDS_MAX", 3)  # so that ids are asked for again


@pytest.mark.parametrize("first", range(0, 200, 40))
def test_every_task_has_one_outcome_and_runs_once(first: int) -> None:
    for seed in range(first, first + 40):
        check_seed(seed)


@pytest.mark.parametrize("fetched", [True, False])
def test_a_block_is_withdrawn_while_it_is_read_again(fetched: bool) -> None:
    """Seed 4391: all of a parked block is cancelled, and that is stored, before the block has come."""
    core = named.NamedSession(b"life")
    core.start(0.0)
    blocks = [Block(messages.PROTOCOL, "n", count, Profile("plain"), LANES[0], Retry()) for count in (10, 2, 1)]
    for sequence, block in enumerate(blocks, 1):
        core.on_block(sequence, block, [b"x"] * block.count, 1)
    everything = [(1, index) for index in range(10)]
    for places in (everything, [(2, 0), (2, 1)]):
        effects = core.stop(places, kill=False)[1]
        stored = [effect.settled for effect in effects if isinstance(effect, Store)]
        if places is everything:
            assert named.Fetch(2) in core.plan(0.0)
        for record, settled in enumerate(stored, 10):
            core.on_settled(settled, 1, record)
    if fetched:
        core.on_fetched(2, blocks[1], [b"x"] * 2)
    else:
        core.on_not_fetched(2)
    assert named.Fetch(3) in core.plan(0.0), "the lane is stuck"


@pytest.mark.parametrize("mutation", NAMED_MUTATIONS, ids=lambda mutation: mutation.takes_away)
def test_the_simulation_notices_what_is_missing(mutation: Mutation) -> None:
    with mutation.applied():
        for seed in range(SEEDS_MAX):
            try:
                check_seed(seed)
            except (AssertionError, LookupError):  # the next to break is a table that is not as it must be
                return
    raise AssertionError(f"{SEEDS_MAX} seeds did not notice that {mutation.takes_away} is missing")


@pytest.mark.parametrize("returned", ["still there", "purged"])
def test_a_later_attempt_counts_though_the_earlier_batch_is_not_over(returned: str) -> None:
    """Seed 439: the first batch handed one task back, which then ran in a second batch that is acknowledged already."""
    core = named.NamedSession(b"next life")
    profile = Profile("plain")
    first = Work(messages.PROTOCOL, "n", 7, 2, profile, origin=((1, 0, 2),))
    core.claim_work(first, 10)
    handed_back = Report(
        messages.PROTOCOL, 7, 0, 1, "node", 0, (Mark(0, Kind.RETURNED),), origin=first.origin, sequence=10
    )
    second = Report(messages.PROTOCOL, 8, 0, 1, "node", 0, origin=((1, 0, 1),), sequence=12)
    reports = [handed_back, second] if returned == "still there" else [second]
    for report in reports:
        core.claim_report(report)
    core.on_block(1, Block(messages.PROTOCOL, "n", 2, profile, LANES[0], Retry()), [b"a", b"b"], 1)
    core.core.on_slots(LANES[0].id, 1)
    effects = [*core.start(0.0)]
    for report in reports:
        effects += core.on_report(report, 0.0)
    effects += core.plan(0.0)
    assert not [effect for effect in effects if isinstance(effect, session.Send)], "it runs again"
    assert [effect.settled.runs for effect in effects if isinstance(effect, Store)] == [((1, 0, 1),)]


def test_what_falls_with_an_input_has_failed_before() -> None:
    """Until the input's end is stored it may run again in a life to come: what was counted against it must not be lost."""
    core = named.NamedSession(b"next life")
    origin = ((1, 0, 2),)
    core.claim_work(Work(messages.PROTOCOL, "n", 7, 2, Profile("plain"), origin=origin), 10)
    feeds = (Feed(1, (0,)),)
    core.on_block(1, Block(messages.PROTOCOL, "n", 2, Profile("plain"), LANES[0], Retry(), feeds=feeds), [b"a"] * 2, 1)
    core.start(0.0)

    def ended(index: int, kind: Kind) -> list[named.Effect]:
        marks = (Mark(index, kind),)
        return core.on_report(Report(messages.PROTOCOL, 7, index, 1, "node", 0, marks, origin=origin, sequence=10), 0.0)

    ended(0, Kind.RETURNED)
    assert core.stop([(1, 0)], kill=False)[0] == [True]
    effects = ended(1, Kind.LOST)
    assert [effect.settled.tried for effect in effects if isinstance(effect, Store)] == [(Tried(1, 1, 10, 1, 0, 0, 1),)]
