"""Normaliser statistics of learners whose parameters are averaged: pooled, so that they see inputs on one scale."""

from __future__ import annotations

import time
from typing import cast

import numpy as np

from gala.config import derived
from gala.config.schema import Config
from gala.rl.normalise import Normalizers
from gala.training.board import Board
from gala.training.protocol import BoardForLearner

_POLL_S = 0.0002
_GROWTH, _LONGEST = 100, 16
"""Learners that do not wait for each other pool when their updates have grown by one in so many since the last time,
which moves what they divide by less than a per cent, and at the latest after so many updates."""


def waits(config: Config) -> bool:
    """Whether each update pools the statistics that all learners had at that update, so that a run can be repeated.

    Not on a cluster, where rows travel by way of the hub, some twenty times a second: that would set the pace.
    """
    return derived.is_lock_step(config) and not config.cluster.address


def row_size(config: Config, num_moments: int) -> int:
    """Length of the row that each learner publishes; where all wait for all, it has two places."""
    return 2 * (1 + num_moments) if waits(config) and num_moments else num_moments


class MomentPool:
    """One learner's share in the pooling.

    Where all wait for all, a row holds the statistics of two successive updates, each with its number, in the places
    ``number % 2``. A learner that is one update ahead leaves alone what its peers may still read, and it cannot be two
    ahead, since it would wait for them.

    """

    def __init__(self, config: Config, board: BoardForLearner, rank: int, normalizers: Normalizers) -> None:
        self._board, self._rank, self._normalizers = board, rank, normalizers
        self._learners, self._waits, self._numbers = config.learners, waits(config), config.gossip.record
        self._pools = bool(normalizers) and derived.averages_parameters(config)
        self._row = np.zeros((2, 1 + normalizers.size)) if self._pools else np.zeros(0)
        self._next = 0

    def pool(self, updates: int) -> list[int]:
        """Publish this learner's statistics and normalise by all learners'; ``updates`` it has made.

        Returns, of a run that is recorded, which publication of each rank that was; nothing if it was not yet time.
        """
        if not self._pools:
            return []
        if not self._waits:
            if updates < self._next:
                return []
            self._next = updates + min(max(1, updates // _GROWTH), _LONGEST)
            self._board.publish_moments(self._rank, self._normalizers.pack())
            if not self._numbers:
                self._normalizers.pool(self._board.read_moments())
                return []
            rows, numbers = cast(Board, self._board).read_numbered_moments()  # recorded: not on a cluster
            self._normalizers.pool(rows)
            return list(numbers)
        number, place = updates + 1, (updates + 1) % 2  # 0 is what nobody has published
        self._row[place, 0], self._row[place, 1:] = number, self._normalizers.pack()
        self._board.publish_moments(self._rank, self._row.ravel())
        while True:
            rows, published = cast(Board, self._board).read_numbered_moments()  # -1 of a row that is being written
            rows = rows[: self._learners].reshape(self._learners, 2, -1)[:, place]
            if (rows[:, 0] == number).all() and min(published[: self._learners]) >= 0:
                self._normalizers.pool(rows[:, 1:])
                return []
            time.sleep(_POLL_S)  # a peer that never comes is noticed by the parent, which ends this process
