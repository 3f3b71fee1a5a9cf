"""What a session wants done."""

from __future__ import annotations

import msgspec

from farmhand.core.feeding import Unfed
from farmhand.core.tasks import Batch, Task
from farmhand.model.ids import LaneId
from farmhand.model.outcome import Mark


class Send(msgspec.Struct, frozen=True, gc=False):
    """Publish this batch and say `on_stored` or `on_refused`."""

    batch: Batch


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """These tasks succeeded: (task, position of its value in the report's body)."""

    values: list[tuple[Task, int]]


class Ended(msgspec.Struct, frozen=True, gc=False):
    """This task ended otherwise. `position` is its exception's place in the report's body, -1 when there is none."""

    task: Task
    mark: Mark
    position: int = -1
    node: str = ""
    slot: int = -1


class Running(msgspec.Struct, frozen=True, gc=False):
    """A node says that this task runs now."""

    task: Task
    node: str


class Stop(msgspec.Struct, frozen=True, gc=False):
    """Tell the nodes to stop or drop these: (token, index)."""

    targets: list[tuple[int, int]]


class CheckLane(msgspec.Struct, frozen=True, gc=False):
    """Ask the engine for this session's oldest work in the lane, and say so with `on_lane_checked`."""

    lane: LaneId


Effect = Send | Delivered | Ended | Unfed | Running | Stop | CheckLane
