"""Who takes part, and the graph over those who are left: dead and silent learners are stitched out, joiners in.

No learner waits for an agreement. Each sends by the roster as it sees it at that moment; PushSum stays exact whatever
the others see, since a sender splits its own mass only and a receiver absorbs whatever arrives.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

PRESENT, RESTING, FINISHED, DEAD, ABSENT = range(5)
"""States of a rank. RESTING stands still for a checkpoint, or has not done its first update since it was let in;
ABSENT has not joined yet, or has left and handed its mass over."""


class Table:
    """The arrays [n] behind a roster, which may lie in shared memory. Each rank writes its own entries; those of a dead
    rank belong to whoever buries it.

    Args:
        state: int64, PRESENT and so on.
        beat_ns: int64, ``time.monotonic_ns`` of each rank's newest sign of life; 0 before its first.
        weight: float64, what ``publish`` wrote.
        unread: float64 [n] or [destination, source], weight in the boxes towards each rank. What a box holds is written
            under its lock; a process that is killed between two stores leaves too little here, never too much.
    """

    def __init__(self, state: NDArray, beat_ns: NDArray, weight: NDArray, unread: NDArray) -> None:
        self.state, self.beat_ns, self.weight, self.unread = state, beat_ns, weight, unread

    @classmethod
    def local(cls, n: int) -> Table:
        """For the ranks of one process, all present."""
        return cls(np.zeros(n, np.int64), np.zeros(n, np.int64), np.ones(n), np.zeros(n))

    def silent(self, silent_after_s: float) -> NDArray:
        """bool [n]: has begun, should be at work, and gave no sign for ``silent_after_s``."""
        overdue = (self.beat_ns > 0) & (time.monotonic_ns() - self.beat_ns > silent_after_s * 1e9)
        return overdue & (self.state == PRESENT)

    def is_silent(self, rank: int, silent_after_s: float) -> bool:
        """``silent`` of one rank."""
        beat_ns = int(self.beat_ns[rank])
        overdue = beat_ns > 0 and time.monotonic_ns() - beat_ns > silent_after_s * 1e9
        return overdue and int(self.state[rank]) == PRESENT

    def total_weight(self) -> float:
        """What all ranks hold and what waits in boxes: a sum of positive numbers, so its error is relative, however
        little is left."""
        return float(self.weight.sum() + self.unread.sum())

    def unread_weight(self, rank: int) -> float:
        """In the boxes towards ``rank``."""
        return float(self.unread[rank].sum())

    def mean_weight(self) -> float:
        """See ``Roster.mean_weight``."""
        return self.total_weight() / max(int((self.state < DEAD).sum()), 1)

    def gone(self, rank: int) -> bool:
        """Whether nobody will ever read or take back what lies in boxes of this rank."""
        return int(self.state[rank]) in (DEAD, ABSENT)

    def retire(self, rank: int) -> None:
        """``rank`` has left, and has handed its mass over."""
        self.state[rank], self.weight[rank] = ABSENT, 0.0

    def bury(self, rank: int, lost_in_boxes: float = 0.0) -> float:
        """Write a dead rank off, and return the weight that went with it."""
        held = 0.0 if self.state[rank] in (DEAD, ABSENT) else float(self.weight[rank])
        self.state[rank], self.weight[rank] = DEAD, 0.0
        return held + lost_in_boxes

    def admit(self, rank: int) -> None:
        """Let a rank in (again), with no weight. It rests until its first update: nobody pours mass into a process that
        is still importing."""
        self.state[rank], self.weight[rank], self.beat_ns[rank] = RESTING, 0.0, 0

    def update(self, rank: int) -> None:
        """``rank`` has done an update: a sign of life, and the end of its rest."""
        self.beat_ns[rank] = time.monotonic_ns()
        if self.state[rank] == RESTING:
            self.state[rank] = PRESENT


class TableRoster:
    """A ``Table`` as one rank sees it."""

    def __init__(self, table: Table, rank: int, silent_after_s: float) -> None:
        self._table, self._rank, self._silent_after_s = table, rank, silent_after_s
        self._everyone = tuple(range(len(table.state)))

    def live(self) -> tuple[int, ...]:
        absent = (self._table.state != PRESENT) | self._table.silent(self._silent_after_s)
        return tuple(np.flatnonzero(~absent).tolist()) if absent.any() else self._everyone

    def departed(self) -> tuple[int, ...]:
        gone = (self._table.state >= FINISHED) | self._table.silent(self._silent_after_s)
        return tuple(np.flatnonzero(gone).tolist()) if gone.any() else ()

    def is_live(self, rank: int) -> bool:
        """Whether ``rank`` is in ``live()``, without looking at the others."""
        return bool(self._table.state[rank] == PRESENT and not self._table.is_silent(rank, self._silent_after_s))

    def mean_weight(self) -> float:
        return self._table.mean_weight()

    def publish(self, weight: float) -> None:
        self._table.weight[self._rank] = weight
