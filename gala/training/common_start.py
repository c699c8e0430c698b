"""Learners of an asynchronous run begin together, or a short one would be over before the last has its simulators."""

from __future__ import annotations

import time

from gala.config import derived
from gala.config.schema import Config
from gala.processes.fleet import Fleet
from gala.training.protocol import LearnerStates

PATIENCE_S = 30.0
"""How long the first to be ready waits for the others."""


class CommonStart:
    """Who is ready, and is told to begin once all are. ``states`` is shared with the run.

    Learners in lock-step wait for each other anyway; those that join later wait for nobody.
    """

    def __init__(self, config: Config, states: LearnerStates, fleet: Fleet) -> None:
        self._states, self._fleet = states, fleet
        self.waits = config.learners > 1 and not derived.is_lock_step(config)
        """Whether learners of the start are to be told to begin."""
        self._ready: list[int] = []
        self._first_s, self._has_begun = 0.0, False

    def ready(self, rank: int) -> None:
        """``rank`` has its simulators, its network and its place among the others."""
        if self.waits and self._states.of(rank) == "starting":
            self._first_s = self._first_s if self._ready else time.monotonic()
            self._ready.append(rank)
        else:
            self._states.move(rank, "running")

    def died(self, rank: int) -> None:
        """It is waited for no longer."""
        if rank in self._ready:
            self._ready.remove(rank)

    def advance(self, now: float) -> list[int]:
        """Tell those who are ready to begin, if it is time. Returns who is not ready, and not waited for any longer.
        ``now`` is of ``time.monotonic``."""
        if not self._ready:
            return []
        late = [rank for rank in self._states.ranks("starting") if rank not in self._ready]
        late = [] if self._has_begun else late
        if late and now - self._first_s < PATIENCE_S:
            return []
        for rank in self._ready:
            if self._states.of(rank) == "starting":  # and not told to stop meanwhile, and at the end already
                self._states.move(rank, "running")
                self._fleet.tell(rank, "begin")
        self._ready, self._has_begun = [], True
        return late
