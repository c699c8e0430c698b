"""A scripted environment whose every number is known beforehand, and broken variations of it."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np

SCRIPT = ((4, "terminated"), (3, "truncated"), (6, "terminated"), (1, "truncated"), (5, "truncated"))
"""(length, how it ends) of the episodes of a row, in turn. The reward of decision k of an episode is k."""


class Counting(gym.Env):
    """obs = (episode number, decisions made in it, reset's random draw), float64, in one array that is overwritten."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, fail_at: int = -1, hang_at: int = -1, error: type[Exception] = ZeroDivisionError) -> None:
        self.episode, self.total, self.fail_at, self.hang_at, self.error = -1, 0, fail_at, hang_at, error
        self.obs = np.zeros(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.episode = -1
        self.episode += 1
        self.obs[:] = self.episode, 0, self.np_random.random()
        return self.obs, {}

    def step(self, action):
        self.total += 1
        if self.total == self.fail_at:
            raise self.error("scripted failure")
        if self.total == self.hang_at:
            time.sleep(600)
        length, how = SCRIPT[self.episode % len(SCRIPT)]
        self.obs[1] += 1
        done = self.obs[1] == length
        return self.obs, float(self.obs[1]), done and how == "terminated", done and how == "truncated", {}


def scripted_episodes(num_steps: int) -> list[dict]:
    """What any faithful backend shows of one row in its first ``num_steps`` valid steps, episode by episode."""
    episodes, left, number = [], num_steps, 0
    while left > 0:
        length, how = SCRIPT[number % len(SCRIPT)]
        taken = min(length, left)
        ended = how if taken == length else "cut"
        episodes.append({"number": number, "rewards": [float(k + 1) for k in range(taken)], "ended": ended})
        number, left = number + 1, left - taken
    return episodes
