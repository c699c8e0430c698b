"""Who takes part, and the graph over those who are left: dead and silent learners are stitched out, joiners in.

No learner waits for an agreement. Each sends by the roster as it sees it at that moment; PushSum stays exact whatever
the others see, since a sender splits its own mass only and a receiver absorbs whatever arrives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gala.gossip.push_sum import UNIT_BITS, in_unit

PRESENT, RESTING, FINISHED, DEAD, ABSENT = range(5)
"""States of a rank. RESTING stands still for a checkpoint, or has not done its first update since it was let in;
ABSENT has not joined yet, or has left and handed its mass over."""


class Table:
    """The arrays [n] behind a roster, which may lie in shared memory. Each rank writes its own entries; those of a dead
    rank belong to whoever buries it.

    Args:
        state: int64, PRESENT and so on.
        beat_ns: int64, ``time.monotonic_ns`` of each rank's newest sign of life; 0 before its first, and minus the time
            at which a newcomer was let in.
        weight: float64, what ``publish`` wrote.
        unread: float64 [n] or [destination, source], weight in the boxes towards each rank. What a box holds is written
            under its lock; a process that is killed between two stores leaves too little here, never too much.
        unit: int64, in which each rank counts its weight and that of its messages; see ``in_unit``.
    """

    def __init__(self, state: NDArray, beat_ns: NDArray, weight: NDArray, unread: NDArray, unit: NDArray) -> None:
        self.state, self.beat_ns, self.weight, self.unread, self.unit = state, beat_ns, weight, unread, unit

    @classmethod
    def local(cls, n: int) -> Table:
        """For the ranks of one process, all present."""
        return cls(np.zeros(n, np.int64), np.zeros(n, np.int64), np.ones(n), np.zeros(n), np.zeros(n, np.int64))

    def silent(self, silent_after_s: float) -> NDArray:
        """bool [n]: has begun, should be at work, and gave no sign for ``silent_after_s``; or was let in so long ago,
        and has not begun."""
        overdue = (self.beat_ns != 0) & (time.monotonic_ns() - np.abs(self.beat_ns) > silent_after_s * 1e9)
        return overdue & ((self.state == PRESENT) | ((self.state == RESTING) & (self.beat_ns < 0)))

    def is_silent(self, rank: int, silent_after_s: float) -> bool:
        """``silent`` of one rank that is present."""
        beat_ns = abs(int(self.beat_ns[rank]))
        return beat_ns > 0 and time.monotonic_ns() - beat_ns > silent_after_s * 1e9

    def total_weight(self, unit: int | None = None) -> float:
        """What all ranks hold and what waits in boxes, in ``unit`` (default the highest): a sum of positive numbers, so
        its error is relative, however little is left. Sums over sources [n] count in ``unit`` already."""
        if not self.unit.any():
            return float(self.weight.sum() + self.unread.sum())
        shift = UNIT_BITS * ((self.highest_unit() if unit is None else unit) - self.unit)
        unread = self.unread if self.unread.ndim == 1 else np.ldexp(self.unread, shift)
        return float(np.ldexp(self.weight, shift).sum() + unread.sum())

    def highest_unit(self) -> int:
        """The smallest unit that any of those that take part counts in."""
        return int(self.unit.max(where=self.state < DEAD, initial=0)) if self.unit.any() else 0

    def weights(self) -> list[float]:
        """What each rank holds, all in the highest unit."""
        highest = self.highest_unit()
        return [in_unit(w, u, highest) for w, u in zip(self.weight.tolist(), self.unit.tolist(), strict=True)]

    def unread_weight(self, rank: int) -> float:
        """In the boxes towards ``rank``."""
        return float(self.unread[rank].sum())

    def mean_weight(self, unit: int | None = None) -> float:
        """See ``Roster.mean_weight``."""
        return self.total_weight(unit) / max(int((self.state < DEAD).sum()), 1)

    def gone(self, rank: int) -> bool:
        """Whether nobody will ever read or take back what lies in boxes of this rank."""
        return int(self.state[rank]) in (DEAD, ABSENT)

    def retire(self, rank: int) -> None:
        """``rank`` has left, and has handed its mass over."""
        self.state[rank], self.weight[rank] = ABSENT, 0.0

    def restore(self, weights: Sequence[float], ranks: Sequence[int]) -> None:
        """Take up saved ``weights`` by rank, which are then all there is: ``ranks`` are present, and nobody else is."""
        self.state[:], self.weight[:] = ABSENT, 0.0
        for rank in ranks:
            self.state[rank], self.weight[rank] = PRESENT, weights[rank]

    def bury(self, rank: int, lost_in_boxes: float = 0.0) -> float:
        """Write a dead rank off, and return the weight that went with it, in the highest unit."""
        held = 0.0 if self.state[rank] in (DEAD, ABSENT) else self.weights()[rank]
        self.state[rank], self.weight[rank] = DEAD, 0.0
        return held + lost_in_boxes

    def admit(self, rank: int) -> None:
        """Let a rank in (again), with no weight. It rests until its first update: nobody pours mass into a process that
        is still importing."""
        self.state[rank], self.weight[rank], self.unit[rank] = RESTING, 0.0, 0
        self.beat_ns[rank] = -time.monotonic_ns()

    def update(self, rank: int) -> None:
        """``rank`` has done an update: a sign of life, and the end of its rest."""
        self.beat_ns[rank] = time.monotonic_ns()
        if self.state[rank] == RESTING:
            self.state[rank] = PRESENT


class TableRoster:
    """A ``Table`` as one rank sees it."""

    def __init__(self, table: Table, rank: int, silent_after_s: float) -> None:
        self._table, self._rank, self.silent_after_s = table, rank, silent_after_s
        self._everyone = tuple(range(len(table.state)))

    def wait_for_all(self) -> None:
        """However long a rank gives no sign, it takes part until it has died or ended."""
        self.silent_after_s = math.inf

    def live(self) -> tuple[int, ...]:
        absent = (self._table.state != PRESENT) | self._table.silent(self.silent_after_s)
        return tuple(np.flatnonzero(~absent).tolist()) if absent.any() else self._everyone

    def departed(self) -> tuple[int, ...]:
        gone = (self._table.state >= FINISHED) | self._table.silent(self.silent_after_s)
        return tuple(np.flatnonzero(gone).tolist()) if gone.any() else ()

    def is_live(self, rank: int) -> bool:
        """Whether ``rank`` is in ``live()``, without looking at the others."""
        return bool(self._table.state[rank] == PRESENT and not self._table.is_silent(rank, self.silent_after_s))

    def mean_weight(self) -> float:
        return self._table.mean_weight(int(self._table.unit[self._rank]))

    def highest_unit(self) -> int:
        return self._table.highest_unit()

    def beat(self) -> None:
        self._table.beat_ns[self._rank] = time.monotonic_ns()

    def publish(self, weight: float, unit: int = 0) -> None:
        self._table.weight[self._rank], self._table.unit[self._rank] = weight, unit
