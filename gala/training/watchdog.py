"""Notices learners that make no progress: a simulator's step that never returns, a process that is stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gala.gossip.awake_clock import AwakeClock
from gala.training.board import ROLLOUTS, STEPS, UPDATES
from gala.training.protocol import BoardForLearner, BoardForRun, LearnerStates, State

START_S = 300.0
"""How long starting may take besides: processes, imports, compilers, the first reset of all simulators."""
MARGIN_S = 5.0
"""Simulators that watch over themselves say more of what has happened: they come first."""
END_PATIENCE_S = 20.0
"""Once the run is to end, nobody is waited for longer than this."""
_AT_WORK: tuple[State, ...] = ("starting", "joining", "running")


class Watchdog:
    """Knows for how long each learner that should be at work has shown nothing new.

    Time counts only as far as the parent itself was awake.
    """

    def __init__(self, board: BoardForRun, states: LearnerStates, watchdog_s: float) -> None:
        self._board, self._states, self._limit_s = board, states, watchdog_s + MARGIN_S
        self._seen: dict[int, tuple[Any, ...]] = {}
        self._idle_s: dict[int, float] = {}
        self._clock = AwakeClock()

    def stuck(self, now: float, ending: bool) -> list[tuple[int, float]]:
        """(rank, seconds without a sign) of the learners that are stuck, not of those that wait for them."""
        passed_s = self._clock.look(now)
        ranks = self._states.ranks(*_AT_WORK)
        for rank in ranks:
            sign = (self._states.of(rank), *self._board.beats[rank].tolist(), int(self._board.progress[rank, UPDATES]))
            self._idle_s[rank] = self._idle_s.get(rank, 0.0) + passed_s if self._seen.get(rank) == sign else 0.0
            self._seen[rank] = sign
        late = [(rank, self._idle_s[rank]) for rank in ranks if self._idle_s[rank] > self._limit(rank, ending)]
        for rank, _ in late:
            self._idle_s[rank] = 0.0  # whoever hears of it acts on it
        starting = self._states.ranks("starting")
        at_fault = [(rank, idle_s) for rank, idle_s in late if rank in starting or _simulates(self._board, rank)]
        return at_fault if starting else at_fault or late

    def _limit(self, rank: int, ending: bool) -> float:
        starts = START_S if self._states.of(rank) in ("starting", "joining") else 0.0
        return min(self._limit_s + starts, END_PATIENCE_S) if ending else self._limit_s + starts


def _simulates(board: BoardForRun, rank: int) -> bool:
    """Whether it has not brought its rollout to the end: past that it may be waiting for its peers."""
    return bool(board.beats[rank, ROLLOUTS] <= board.progress[rank, UPDATES])


def beats_of(board: BoardForLearner, rank: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """What a learner calls after each batched step, and after each rollout."""
    row = board.beats[rank]
    row[ROLLOUTS] = board.progress[rank, UPDATES]

    def on_step() -> None:
        row[STEPS] += 1

    def on_rollout() -> None:
        row[ROLLOUTS] += 1

    return on_step, on_rollout
