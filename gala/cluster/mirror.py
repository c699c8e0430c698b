"""The hub's rows as one process knows them, behind the faces that the rest of gala knows: board and roster."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from gala.cluster.hub import Rows
from gala.gossip.transport.roster import PRESENT, RESTING, Table
from gala.training.board import ENV_STEPS


class Mirror:
    """Rows [places, ...]. A learner writes its own row here, and the link takes it to the hub; the others' rows are as
    old as the last answer of the hub.

    Raises:
        ValueError: see ``apply``.
    """

    def __init__(self, rows: Rows, own: int | None = None) -> None:
        places = len(rows.progress)
        self.own = own
        self.progress, self.control = rows.progress.copy(), rows.control.copy()
        self.beats = rows.beats.copy()
        self._seen_s = np.full(places, np.nan)  # ``time.monotonic`` of each rank's last visit to the hub
        self.moments = rows.moments.copy()
        self.sent_updates = rows.sent_updates.copy()
        beat_ns = np.zeros(places, np.int64)
        self.table = Table(*(x.copy() for x in (rows.state, beat_ns, rows.weight, rows.unread_weight, rows.unit)))
        if own is not None and self.table.state[own] != RESTING:  # a newcomer rests until its first update
            self.table.state[own] = PRESENT
        self._others = np.arange(places) != own

    def apply(self, rows: Rows) -> None:
        """Take over what is news, which is never this process's own row."""
        others, table = self._others, self.table
        self.progress[others], self.moments[others] = rows.progress[others], rows.moments[others]
        self.beats[others] = rows.beats[others]
        self._seen_s = np.where(rows.unseen_s < 0, np.nan, time.monotonic() - rows.unseen_s)
        self.sent_updates[others] = rows.sent_updates[others]
        beat_ns = np.where(rows.age_s < 0, 0, time.monotonic_ns() - rows.age_s * 1e9).astype(np.int64)
        table.state[others], table.weight[others] = rows.state[others], rows.weight[others]
        table.beat_ns[others], table.unread[:] = beat_ns[others], rows.unread_weight
        table.unit[others] = rows.unit[others]
        if self.own is not None:
            self.control[:] = rows.control

    def unseen_s(self, rank: int) -> float:
        """Since the last visit of ``rank``'s thread to the hub, as far as is known here; 0 before the first."""
        seen_s = float(self._seen_s[rank])
        return 0.0 if np.isnan(seen_s) else time.monotonic() - seen_s

    def total_env_steps(self) -> int:
        return int(self.progress[:, ENV_STEPS].sum())

    def read_moments(self) -> NDArray:
        """A copy [places, m]."""
        return self.moments.copy()
