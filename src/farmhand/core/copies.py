"""Second copies of stored blocks: the engine knows its messages' ids for a while only, and an outage may last longer.

A client that heard no answer stores its block again, under the same id. `after` in the block is the newest sequence that it
knew of when it stored it first, so all copies stand behind that. The first one counts. Ids are kept of the newest blocks;
for a block that may have a copy before those, the shell looks in the engine.
"""

from __future__ import annotations

from farmhand.model import limits


class Copies:
    """`first`: the sequence from which on blocks will be read."""

    def __init__(self, first: int) -> None:
        self._first = first  # the ids of all blocks from here on are known, as far as they were read
        self._at: dict[str, int] = {}  # the sequences of the first copies, in their order

    def missing(self, after: int) -> range:
        """Where a first copy of this block could be that is not known: read the ids there, and say `on_earlier`."""
        return range(after + 1, self._first) if after >= 0 else range(0)

    def on_earlier(self, looked_at: range, found: dict[str, int]) -> None:
        """The ids of all blocks in a range that was missing."""
        self._at = found | {name: sequence for name, sequence in self._at.items() if name not in found}
        self._first = min(self._first, looked_at.start)

    def is_copy(self, name: str, sequence: int) -> bool:
        """Whether the block of this id at `sequence` is a second one. Blocks come in their order."""
        if not name:
            return False
        first = self._at.setdefault(name, sequence)
        while len(self._at) > limits.BLOCK_IDS_MAX:
            oldest = next(iter(self._at))
            self._first = max(self._first, self._at.pop(oldest) + 1)
        return first < sequence
