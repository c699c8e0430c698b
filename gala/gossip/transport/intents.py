"""What each rank is about to do to its published weight, so that a kill at any moment is counted on the right side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gala.gossip.transport.box import Box

NOTHING, PUT, TAKE, TAKE_BACK = range(4)


class Intents:
    """One line [8] of shared memory a rank. A put moves weight from its sender into a box, a take from a box to its
    reader, by two stores in two places. In between a kill would count that weight twice, or not at all: so the rank
    writes down beforehand which box, which version of it, and what its own weight will be after."""

    _KIND, _EDGE, _VERSION, _AFTER, _CUT_OFF, _LIVES, _BURIED = range(7)

    def __init__(self, lines: NDArray) -> None:
        reals = lines.view(np.float64)
        self._kind, self._edge, self._version = (lines[:, i] for i in (self._KIND, self._EDGE, self._VERSION))
        self._after = reals[:, self._AFTER]
        self.cut_off = reals[:, self._CUT_OFF]
        """Weight lost in cut-off writes of each rank, as far as it is accounted for."""
        self.buried = reals[:, self._BURIED]
        """Weight that went with all that died as each rank, in unit 0."""
        self.lives = lines[:, self._LIVES]
        """1 while a process has claimed the rank, and after it was killed."""

    @contextlib.contextmanager
    def moving(self, rank: int, kind: int, edge: int, box: Box, weight: NDArray, by: float) -> Iterator[None]:
        """Around the put or take, under the box's lock: ``weight[rank]`` changes ``by`` when the box has changed."""
        version = int(box.ints[Box.VERSION]) + {PUT: 2, TAKE: 0, TAKE_BACK: 1}[kind]  # that `put` and `empty` end with
        after = float(weight[rank]) + by
        self._edge[rank], self._version[rank], self._after[rank] = edge, version, after
        self._kind[rank] = kind
        yield
        weight[rank] = after
        self._kind[rank] = NOTHING

    def edge(self, rank: int) -> int | None:
        """Number of the edge at which ``rank`` was stopped, if any."""
        return int(self._edge[rank]) if self._kind[rank] != NOTHING else None

    def weight(self, rank: int, box: Box, published: float) -> float:
        """What ``rank``, who was killed at ``box``, has held: all that is in no box."""
        reached = box.ints[Box.VERSION if self._kind[rank] == PUT else Box.TAKEN]
        return float(self._after[rank]) if reached == self._version[rank] else published

    def settle(self, rank: int) -> None:
        """The published weight of ``rank``, who was killed, is right now."""
        self._kind[rank] = NOTHING

    def forget(self, rank: int) -> None:
        """``rank`` was written off, or another takes its place."""
        self._kind[rank] = NOTHING
        self.lives[rank] = 0
