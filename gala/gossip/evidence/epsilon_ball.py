"""A bound on the consensus distance, computed from the events of a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gala.gossip.evidence.events import MixEvent

_OWN_ROUNDINGS, _SENT_ROUNDINGS = 4.0, 5.0
"""Units of roundoff per element that an average adds: see ``EpsilonBall``."""


class _Put(NamedTuple):
    weight: float
    version: int
    row: NDArray
    norm: float


class EpsilonBall:
    """A bound on the consensus distance, computed from what really happened and not from assumptions about delays.

    Every put and take is a weighted average, so the parameters are x_i = sum_s c_is u_s over all updates u_s ever made,
    with coefficients that the events determine. Then ||X - mean(X)||_F <= sum_s ||c_s - mean(c_s)|| ||u_s||, with
    equality if all updates are collinear and pull the same way. Holds for PushSum and for copy averaging, any
    delay, any skipping (GALA, arXiv 1906.04585, proposition 1, with the joint spectral radius replaced by the
    trace).

    Rounding is part of what happened: each take adds an update of its receiver, of norm u (4 a ||z|| + (5 + K) sum_k
    b_k ||z_k||), for unit roundoff u, own share a, and K puts of shares b_k. Per element, the own part is multiplied by
    a rounded factor and added (3 u), and each put is multiplied by a rounded factor when sent and again when absorbed,
    summed with the other puts and added (4 + K); one more of each covers what is of second order in u.

    The bound assumes that the learners start equal, that every update, put and take is in the events, and nothing else.

    Cost: O(updates not yet forgotten) per event; an update is forgotten (into a constant remainder) when all
    learners and boxes hold it alike to ``forget``.
    """

    def __init__(self, world_size: int, forget: float = 1e-9) -> None:
        self.world_size, self._forget = world_size, forget
        self._held = np.zeros((world_size, 256))  # c: [learner, update]
        self._norms = np.zeros(256)
        self._used = 0
        self._remainder = 0.0
        self._boxes: dict[tuple[int, int], deque[_Put]] = {}
        self._marks: dict[int, NDArray] = {}

    def replay(self, events: Iterable[MixEvent]) -> None:
        """Apply events, of all learners, in the order of their times."""
        for event in sorted(events, key=lambda e: e.time_ns):
            self.apply(event)

    def apply(self, event: MixEvent) -> None:
        """Apply one event.

        Raises:
            ValueError: a take of puts that were never logged.
        """
        if event.kind == "update":
            self._update(event.rank, event.amount)
        elif event.kind == "put":
            put = _Put(event.amount, event.version, self._held[event.rank, : self._used].copy(), event.norm)
            self._boxes.setdefault((event.rank, event.peer), deque()).append(put)
        elif event.kind == "mark":
            self._marks[event.rank] = self._held[event.rank, : self._used].copy()
        else:
            self._take(event)

    def bound(self) -> float:
        """No less than ||X - mean(X)||_F at this moment."""
        return self._bound(self._held[:, : self._used])

    def bound_at_marks(self) -> float | None:
        """No less than ||X - mean(X)||_F of the parameters that each learner had at its newest mark, whenever that was:
        a row of coefficients says what a learner is made of, and needs no common clock. None before all marked."""
        if len(self._marks) < self.world_size:
            return None
        return self._bound(np.stack([self._padded(self._marks[rank]) for rank in range(self.world_size)]))

    def _padded(self, row: NDArray) -> NDArray:
        return np.pad(row, (0, self._used - len(row)))

    def _bound(self, held: NDArray) -> float:
        spread = np.linalg.norm(held - held.mean(axis=0), axis=0)
        return float(spread @ self._norms[: self._used]) + self._remainder

    def _update(self, rank: int, norm: float) -> None:
        if self._used == self._held.shape[1]:
            self._compact()
        self._held[:, self._used] = 0.0
        self._held[rank, self._used] = 1.0
        self._norms[self._used] = norm
        self._used += 1

    def _take(self, event: MixEvent) -> None:
        edge = (event.rank, event.peer) if event.kind == "take-back" else (event.peer, event.rank)
        box = self._boxes.get(edge, deque())
        puts = [box.popleft() for _ in range(sum(put.version <= event.version for put in box))]
        if len(puts) < event.puts:  # more are fine: they were lost, or replaced by newer copies
            raise ValueError(f"learner {event.rank} took {event.puts} puts of {event.peer}, {len(puts)} are logged")
        weight = event.amount
        total = event.amount * self._held[event.rank, : self._used]
        for put in puts[-event.puts :]:
            total[: len(put.row)] += put.weight * put.row
            weight += put.weight
        self._held[event.rank, : self._used] = total / weight
        mixed = _OWN_ROUNDINGS * event.amount * event.norm
        mixed += (_SENT_ROUNDINGS + event.puts) * sum(put.weight * put.norm for put in puts[-event.puts :])
        if event.unit:
            self._update(event.rank, event.unit * mixed / weight)

    def _compact(self) -> None:
        """Forget updates that everyone holds alike; averages never widen a spread, so the remainder bounds them for
        good."""
        rows = [self._held[:, : self._used]]
        for box in self._boxes.values():
            rows += [self._padded(put.row)[None] for put in box]
        rows += [self._padded(row)[None] for row in self._marks.values()]
        everything = np.concatenate(rows)
        spread = everything.max(axis=0) - everything.min(axis=0)
        keep = spread > self._forget
        self._remainder += float(spread[~keep] @ self._norms[: self._used][~keep]) * self.world_size**0.5
        held, norms, kept = self._held[:, : self._used][:, keep], self._norms[: self._used][keep], int(keep.sum())
        for box in self._boxes.values():
            for i, put in enumerate(box):
                box[i] = put._replace(row=self._padded(put.row)[keep])
        self._marks = {rank: self._padded(row)[keep] for rank, row in self._marks.items()}
        size = max(256, 2 * kept)
        self._held, self._norms, self._used = np.zeros((self.world_size, size)), np.zeros(size), kept
        self._held[:, :kept], self._norms[:kept] = held, norms
