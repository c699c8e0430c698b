"""The return at which a task counts as solved, where somebody has said so."""

from __future__ import annotations

from typing import NamedTuple

import gymnasium as gym


class Solved(NamedTuple):
    """A return, and who says that it solves the task."""

    value: float
    source: str


def solved_return(family: str) -> Solved | None:
    """Gymnasium's ``reward_threshold`` of the environment that a family's name ends in, as seeds:CartPole-v1 and
    confounded:classic:CartPole-v1 do; None where there is none, as for Atari games, Walker2d, Humanoid and Pendulum."""
    _, _, env_id = family.rpartition(":")
    try:
        threshold = gym.spec(env_id).reward_threshold
    except (gym.error.Error, ImportError, ValueError):
        return None
    return None if threshold is None else Solved(float(threshold), f"Gymnasium's reward_threshold of {env_id}")
