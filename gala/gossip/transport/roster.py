"""Who takes part, and the graph over those who are left: dead and silent learners are stitched out, joiners in.

No learner waits for an agreement. Each sends by the roster as it sees it at that moment; PushSum stays exact whatever
the others see, since a sender splits its own mass only and a receiver absorbs whatever arrives.
"""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gala.gossip.graphs.topology import Shares, Topology
from gala.gossip.message import Roster

PRESENT, RESTING, FINISHED, DEAD, ABSENT = range(5)
"""States of a rank. RESTING stands still for a checkpoint; ABSENT has not joined yet, or has left and handed its mass
over."""


class Table:
    """The arrays [n] behind a roster, which may lie in shared memory. Each rank writes its own entries; those of a dead
    rank belong to whoever buries it.

    Args:
        state: int64, PRESENT and so on.
        beat_ns: int64, ``time.monotonic_ns`` of each rank's newest sign of life; 0 before its first.
        weight: float64, what ``publish`` wrote.
        total: float64 [1], weight of the whole network.
    """

    def __init__(self, state: NDArray, beat_ns: NDArray, weight: NDArray, total: NDArray) -> None:
        self.state, self.beat_ns, self.weight, self.total = state, beat_ns, weight, total

    @classmethod
    def local(cls, n: int) -> Table:
        """For the ranks of one process, all present."""
        table = cls(np.zeros(n, np.int64), np.zeros(n, np.int64), np.ones(n), np.zeros(1))
        table.total[0] = n
        return table

    def silent(self, silent_after_s: float) -> NDArray:
        """bool [n]: has begun, should be at work, and gave no sign for ``silent_after_s``."""
        overdue = (self.beat_ns > 0) & (time.monotonic_ns() - self.beat_ns > silent_after_s * 1e9)
        return overdue & (self.state == PRESENT)

    def is_silent(self, rank: int, silent_after_s: float) -> bool:
        """``silent`` of one rank."""
        beat_ns = int(self.beat_ns[rank])
        overdue = beat_ns > 0 and time.monotonic_ns() - beat_ns > silent_after_s * 1e9
        return overdue and int(self.state[rank]) == PRESENT

    def mean_weight(self) -> float:
        """See ``Roster.mean_weight``."""
        return float(self.total[0]) / max(int((self.state < DEAD).sum()), 1)

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
        self.total[0] -= held + lost_in_boxes
        return held + lost_in_boxes

    def admit(self, rank: int) -> None:
        """Let a rank in (again), with no weight."""
        self.state[rank], self.weight[rank], self.beat_ns[rank] = PRESENT, 0.0, 0


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


class Neighbours:
    """One learner's peers in each round: those of the topology while all are there, of the stitched graph otherwise."""

    def __init__(self, topology: Topology, rank: int, world_size: int, roster: Roster) -> None:
        self._topology, self._rank, self._world_size, self._roster = topology, rank, world_size, roster

    def out_shares(self, round: int) -> Shares:
        """Whom to send to, and how much."""
        return stitched_shares(self._topology, self._rank, round, self._world_size, self._live())

    def due(self, round: int) -> list[int]:
        """Who sends to this learner."""
        return stitched_in_peers(self._topology, round, self._world_size, self._live()).get(self._rank, [])

    def _live(self) -> tuple[int, ...]:
        live = self._roster.live()
        return live if len(live) == self._world_size or self._rank in live else tuple(sorted((*live, self._rank)))


def stitched_shares(topology: Topology, rank: int, round: int, n: int, live: tuple[int, ...]) -> Shares:
    """``topology.out_shares`` among the ``live`` of ``n`` ranks (joiners may lie beyond n).

    A graph that exists for any number of learners is drawn anew over the live ones, in their order, and so keeps its
    speed. One that does not (a user's file) passes through the gap: what would go to a missing peer goes, in equal
    parts, to those whom that peer ever sends to, which leaves a strongly connected graph strongly connected.
    """
    if len(live) == n and live[-1] == n - 1:  # everyone, since ranks ascend
        return topology.out_shares(rank, round, n)
    if not topology.problem(len(live)):
        shares = topology.out_shares(live.index(rank), round, len(live))
        return [(live[peer], share) for peer, share in shares]
    merged: dict[int, float] = {}
    for peer, share in topology.out_shares(rank, round, n):
        heirs = sorted(set(_heirs(topology, peer, n, live)) - {rank})
        for heir in heirs:
            merged[heir] = merged.get(heir, 0.0) + share / len(heirs)
    return list(merged.items())


@lru_cache(maxsize=256)
def stitched_in_peers(topology: Topology, round: int, n: int, live: tuple[int, ...]) -> dict[int, list[int]]:
    """For each live rank, ascending, who sends to it in ``round``."""
    found: dict[int, list[int]] = {rank: [] for rank in live}
    for src in live:
        for dst, _ in stitched_shares(topology, src, round, n, live):
            found[dst].append(src)
    return found


@lru_cache(maxsize=1024)
def _heirs(topology: Topology, peer: int, n: int, live: tuple[int, ...]) -> tuple[int, ...]:
    """``peer`` itself if it lives, else the live ranks that are reached from it over missing ones only."""
    if peer in live:
        return (peer,)
    followers: dict[int, list[int]] = {}
    for src, dst in topology.edges(n):
        followers.setdefault(src, []).append(dst)
    found, seen, frontier = set(), {peer}, [peer]
    while frontier:
        for dst in followers.get(frontier.pop(), []):
            if dst in live:
                found.add(dst)
            elif dst not in seen:
                seen.add(dst)
                frontier.append(dst)
    return tuple(sorted(found))
