"""What the run says of its returns: the mean of the newest episodes, and when a policy is the best so far."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

EPISODE_WINDOW = 100


class EpisodeWindows:
    """The last 100 episodes of each learner, and of several learners as many in all: the newest of each, equally many,
    so that the figure of a team is no older than that of one learner that makes all the env_steps. It estimates the
    mean return of the learners, not that of who reported last."""

    def __init__(self, num_learners: int) -> None:
        self._returns = [deque[float](maxlen=EPISODE_WINDOW) for _ in range(num_learners)]
        self._lengths = [deque[int](maxlen=EPISODE_WINDOW) for _ in range(num_learners)]
        self.count = 0

    def add(self, rank: int, returns: Sequence[float], lengths: Sequence[int]) -> None:
        """Episodes of one learner, in the order in which they ended."""
        self.count += len(returns)
        self._returns[rank].extend(returns)
        self._lengths[rank].extend(lengths)

    def state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint."""
        returns, lengths = ([list(window) for window in every] for every in (self._returns, self._lengths))
        return {"returns": returns, "lengths": lengths, "count": self.count}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave; learners for whom there is no room any more are left out."""
        for rank, (returns, lengths) in enumerate(zip(state["returns"], state["lengths"], strict=True)):
            if rank < len(self._returns):
                self.add(rank, returns, lengths)
        self.count = int(state["count"])

    def return_of(self, rank: int) -> float | None:
        """Mean return of one learner; None before its first episode has ended."""
        return float(np.mean(self._returns[rank])) if self._returns[rank] else None

    def means(self, ranks: Iterable[int]) -> tuple[float, float] | None:
        """(return, length), each the mean over the learners in ``ranks`` of a learner's mean over its newest episodes,
        100 in all; None without episodes."""
        told = [rank for rank in ranks if self._returns[rank]]
        if not told:
            return None
        newest = slice(-math.ceil(EPISODE_WINDOW / len(told)), None)
        means = [[np.mean([*window[rank]][newest]) for rank in told] for window in (self._returns, self._lengths)]
        return float(np.mean(means[0])), float(np.mean(means[1]))


class BestRule:
    """Decides when the newest policy is the best so far.

    A *window* holds the same number of episodes of every simulator, and closes when the slowest has delivered them: the
    first episodes to end are the short ones, whose returns say little of the policy. Windows do not overlap. The policy
    is the best once two windows in a row lie above the score that is kept: the second estimates again what the first,
    which may just have been lucky, has claimed. Its score is that of the second.

    Args:
        num_learners, num_envs: learners of the run, and simulators of each; a window has at least 100 episodes in all.
    """

    def __init__(self, num_learners: int, num_envs: int) -> None:
        self.quota = math.ceil(EPISODE_WINDOW / (num_learners * num_envs))
        self._num_envs = num_envs
        self._window: dict[tuple[int, int], list[float]] = {}
        self._last = self._score = -math.inf

    def add(self, rank: int, rows: Sequence[int], returns: Sequence[float]) -> None:
        """Episodes of a learner, each with the simulator that played it. Those past the quota are left out."""
        for row, value in zip(rows, returns, strict=True):
            episodes = self._window.setdefault((rank, row), [])
            if len(episodes) < self.quota:
                episodes.append(value)

    def state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint."""
        window = [[*simulator, episodes] for simulator, episodes in self._window.items()]
        return {"window": window, "scores": [None if math.isinf(x) else x for x in (self._last, self._score)]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self._window = {(int(rank), int(row)): list(episodes) for rank, row, episodes in state["window"]}
        self._last, self._score = (-math.inf if x is None else float(x) for x in state["scores"])

    def score(self, ranks: Iterable[int], best: float) -> float | None:
        """The score of a policy that beats ``best``, or None. ``ranks``: the learners that are to be heard."""
        simulators = [(rank, row) for rank in ranks for row in range(self._num_envs)]
        windows = [self._window.get(simulator, []) for simulator in simulators]
        if windows and all(len(episodes) == self.quota for episodes in windows):
            self._last, self._score = self._score, float(np.mean(windows))
            self._window.clear()
        return self._score if min(self._last, self._score) > best else None
