from __future__ import annotations

import itertools

import pytest

from farmhand.core.tasks import TRANSITIONS, Batch, Group, Task, TaskState, Window
from farmhand.model import limits
from farmhand.model.ids import Token
from farmhand.model.messages import Profile, State
from farmhand.model.needs import Lane
from farmhand.model.retry import Retry


def group() -> Group:
    return Group(Lane(), Profile("c"), Retry())


def test_the_table_names_every_state_and_leads_to_the_end() -> None:
    assert set(TRANSITIONS) == set(TaskState)
    assert not TRANSITIONS[TaskState.DONE]
    for state in set(TaskState) - {TaskState.DONE}:
        assert TaskState.DONE in TRANSITIONS[state]
        assert state not in TRANSITIONS[state]
    reached = {TaskState.WAITING}
    for _ in TaskState:
        reached |= {after for state in reached for after in TRANSITIONS[state]}
    assert reached == set(TaskState)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(TaskState, TaskState)))
def test_a_task_goes_where_the_table_says_and_nowhere_else(before: TaskState, after: TaskState) -> None:
    task = Task(group(), 1, None)
    task.state = before
    if after in TRANSITIONS[before]:
        task.to(after)
        assert task.state is after
    else:
        with pytest.raises(AssertionError, match="->"):
            task.to(after)


def test_a_process_for_each_task_is_a_message_for_each() -> None:
    g = Group(Lane(), Profile("c", state=State(process=True)), Retry())
    g.waiting = 1000
    g.learn(0.0001, 1)
    assert g.batch_size(4) == 1


def test_a_group_learns_and_sizes_its_batches() -> None:
    g = group()
    g.waiting = 1000
    assert g.batch_size(4) == 1  # nothing is known
    g.learn(0.001, 1)
    assert g.mean == pytest.approx(0.001)
    assert g.batch_size(4) == int(limits.BATCH_SECONDS / 0.001)
    g.learn(0.003, 1)
    assert g.mean == pytest.approx(0.001 + limits.DURATION_WEIGHT * 0.002)
    g.mean = limits.LONG_TASK_S * 2
    assert g.batch_size(4) == 1
    g.mean = 0.0
    assert g.batch_size(1) == limits.BATCH_TASKS_MAX
    g.mean, g.waiting = 0.005, 4
    assert g.batch_size(4) == 1  # shared out among the slots
    assert g.batch_size(0) == int(limits.BATCH_SECONDS / 0.005)


def test_a_batch_counts_its_tasks() -> None:
    tasks = [Task(group(), 1, None) for _ in range(3)]
    tasks[1].attempts = 4
    batch = Batch(Token(7), tasks[0].group, tasks, 1.0)
    assert (batch.count, batch.left, batch.attempt, batch.sequence, batch.sent_at) == (3, 3, 4, 0, 1.0)


def test_a_window_has_room_when_its_lane_is_there() -> None:
    window = Window(Lane())
    assert window.room() == 0
    window.ready = True
    assert window.room() == limits.WINDOW_MIN
    window.slots = 10
    window.count(0, 4)
    assert window.room() == 10 * limits.BATCHES_PER_SLOT - 4
