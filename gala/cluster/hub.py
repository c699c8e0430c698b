"""The run's common knowledge, in one actor on the machine of the parent: rows, roster, directory, events.

Learners bring their row and take everybody's along, some twenty times a second; nobody waits for anybody here.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gala.gossip.transport.roster import ABSENT, Table
from gala.training.board import UPDATES, slot_of, slots_of_one_moment


class Row(NamedTuple):
    """What one learner publishes."""

    env_steps: int
    updates: int
    sent_updates: int
    """As ``updates``, but no higher than what all its envelopes that have arrived belong to: a peer that waits for a
    envelope gives up once this is past its own count."""
    state: int
    weight: float
    unit: int
    """In which it counts: see ``in_unit``."""
    weight_in_boxes: float
    """Weight that has arrived at this learner, and that it has not read: lost with it if it dies."""
    beats: tuple[int, int]
    """See ``gala.training.board.STEPS``."""
    moments: NDArray | None
    """float64 [m], or None if they are as before."""


class Rows(NamedTuple):
    """What all have published, [places, ...]. ``age_s`` is the time since a learner's last update or change of state,
    ``unseen_s`` since the last visit of its thread, which comes whatever the learner does; -1 before the first."""

    progress: NDArray
    beats: NDArray
    sent_updates: NDArray
    state: NDArray
    age_s: NDArray
    unseen_s: NDArray
    weight: NDArray
    unit: NDArray
    unread_weight: NDArray
    """Weight that has arrived at each learner, and that it has not read."""
    moments: NDArray
    control: NDArray
    epochs: tuple[int, ...]


class Hub:
    """Runs as a Ray actor with one thread, so that calls come one at a time, in the order of each caller."""

    def __init__(self, places: int, present: int, num_params: int, num_moments: int) -> None:
        self._progress, self._beats = np.zeros((places, 2), np.int64), np.zeros((places, 2), np.int64)
        self._sent_updates = np.zeros(places, np.int64)
        self._moments = np.zeros((places, num_moments))
        self._params, self._stamps = np.zeros((places, 2, num_params), np.float32), np.zeros((places, 2))
        self._control = np.zeros(2, np.int64)
        self._table = Table.local(places)
        self._table.state[present:], self._table.weight[present:] = ABSENT, 0.0
        self._learners: list[Any] = [None] * places
        self._epochs = [0] * places
        self._fingerprints, self._publications = [0] * places, [0] * places
        self._visit_ns = np.zeros(places, np.int64)
        self._events: list[tuple[int, str, Any]] = []
        self._early: list[dict[int, tuple[str, Any]]] = [{} for _ in range(places)]
        self._said = [0] * places
        self._commands: list[list[Any]] = [[] for _ in range(places)]

    def restore(self, progress: NDArray, moments: NDArray) -> None:
        """The rows of a saved run. Moments of another length, as of a run that pooled in lock-step on one machine, are
        published anew by their learners."""
        self._progress[: len(progress)] = progress
        if np.ndim(moments) == 2 and np.shape(moments)[1] == self._moments.shape[1]:
            self._moments[: len(moments)] = moments

    def restore_weights(self, weights: list[float], ranks: list[int]) -> None:
        """By rank: all the weight there is, and who takes part."""
        self._table.restore(weights, ranks)

    def enlist(self, rank: int, epoch: int, learner: Any) -> None:
        """``learner`` (an actor's handle, in a list) lives as ``rank`` from now on."""
        self._learners[rank], self._epochs[rank], self._visit_ns[rank] = learner[0], epoch, 0
        self._early[rank], self._said[rank], self._commands[rank] = {}, 0, []

    def tell(self, rank: int, command: Any) -> None:
        """A command of the parent's, which the learner finds at its next visit."""
        self._commands[rank].append(command)

    def dismiss(self, rank: int) -> None:
        """Nobody lives as ``rank`` any more. One that was declared lost may live on where nobody reaches it: what it
        still says counts for nothing, and its peers take no more envelopes of it."""
        self._epochs[rank] = 0
        self._events = [event for event in self._events if event[0] != rank]

    def learners(self) -> list[Any]:
        """Handles by rank; None for those that never were."""
        return self._learners

    def sync(self, rank: int, epoch: int, row: Row, heard: int) -> tuple[Rows, list[Any]]:
        """Take in a learner's row, if it is the one that lives as ``rank``; return all rows, and the commands after the
        ``heard`` that it has. An answer that is lost is thus made good by the next."""
        self._put(rank, epoch, row)
        return self.rows(), self._commands[rank][heard:] if epoch == self._epochs[rank] else []

    def say(self, rank: int, epoch: int, row: Row, number: int, kind: str, body: Any) -> None:
        """An event for the parent, and the row as it was then. Events are numbered 1, 2, ... and may come twice or out
        of order, as calls that are repeated do; the parent hears them once and in order."""
        self._put(rank, epoch, row)
        if epoch != self._epochs[rank] or number <= self._said[rank]:
            return
        self._early[rank][number] = kind, body
        while event := self._early[rank].pop(self._said[rank] + 1, None):
            self._said[rank] += 1
            self._events.append((rank, *event))

    def agree(self, rank: int, fingerprint: int) -> list[int]:
        """Fingerprints of the parameters by rank, this one's included; 0 where there is none yet."""
        self._fingerprints[rank] = fingerprint
        return self._fingerprints

    def publish_params(self, rank: int, epoch: int, flat: NDArray, number: int, stamp: float) -> None:
        """``flat`` [d] as of ``stamp``; ``number`` says which publication of this life it is, from 1 on."""
        if epoch == self._epochs[rank]:
            slot = slot_of(number)
            self._params[rank, slot], self._stamps[rank, slot] = flat, stamp
            self._publications[rank] = number

    def publication(self, rank: int) -> tuple[NDArray, int]:
        """The newest parameters [d] of ``rank``, and their number; 0 before the first."""
        number = self._publications[rank]
        return self._params[rank, slot_of(number)], number

    def params(self, ranks: list[int]) -> tuple[NDArray, NDArray]:
        """Parameters [len(ranks), d] of one moment, as nearly as there are any, and the stamps of each."""
        chosen = ranks, slots_of_one_moment(self._stamps[ranks])
        return self._params[chosen], self._stamps[chosen]

    def poll(self, control: NDArray) -> tuple[list[tuple[int, str, Any]], Rows]:
        """For the parent: what was said since its last call, and rows at least as new."""
        self._control[:] = control
        events, self._events = self._events, []
        return events, self.rows()

    def bury(self, rank: int) -> float:
        """Write a dead rank off: its own weight and what it had not read, as it said last."""
        lost = self._table.bury(rank, float(self._table.unread[rank]))
        self._table.unread[rank] = 0.0
        return lost

    def retire(self, rank: int) -> None:
        self._table.retire(rank)

    def admit(self, rank: int) -> None:
        self._table.admit(rank)

    def _put(self, rank: int, epoch: int, row: Row) -> None:
        table = self._table
        if epoch != self._epochs[rank] or table.gone(rank):
            return
        self._visit_ns[rank] = time.monotonic_ns()
        moved = row.updates != self._progress[rank, UPDATES] or row.state != table.state[rank]
        if moved or not table.beat_ns[rank]:
            table.beat_ns[rank] = time.monotonic_ns()
        self._progress[rank], self._beats[rank] = (row.env_steps, row.updates), row.beats
        self._sent_updates[rank] = row.sent_updates
        table.state[rank], table.weight[rank], table.unread[rank] = row.state, row.weight, row.weight_in_boxes
        table.unit[rank] = row.unit
        if row.moments is not None:
            self._moments[rank] = row.moments

    def rows(self) -> Rows:
        """What all have published."""
        return Rows(
            self._progress,
            self._beats,
            self._sent_updates,
            self._table.state,
            _since_s(self._table.beat_ns),
            _since_s(self._visit_ns),
            self._table.weight,
            self._table.unit,
            self._table.unread,
            self._moments,
            self._control,
            tuple(self._epochs),
        )


def _since_s(moment_ns: NDArray) -> NDArray:
    return np.where(moment_ns > 0, (time.monotonic_ns() - moment_ns) * 1e-9, -1.0)
