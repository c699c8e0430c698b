"""Policies as the diagnostics see them: a batch of observations in, decisions out, all noise given row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Noise = Sequence[np.random.Generator]


class Decision(NamedTuple):
    """What a policy does in B rows.

    ``action [B, ...]``, the next ``state`` (anything), and where the policy has them ``value [B]``, ``entropy [B]`` and
    ``params [B, P]`` of its action distribution (logits, or means and log-stds).
    """

    action: NDArray
    state: Any = None
    value: NDArray | None = None
    entropy: NDArray | None = None
    params: NDArray | None = None


class JudgedPolicy(Protocol):
    """``act``: ``obs [B, ...]``, the state that it returned before (None at first), ``first [B]`` (rows whose episode
    opens with this observation) and a random generator for each row, from which all its randomness comes."""

    def act(self, obs: NDArray, state: Any, first: NDArray, noise: Noise) -> Decision: ...


class RandomPolicy:
    """Uniform over a discrete space, or over the bounds of a box."""

    def __init__(self, space: gym.Space) -> None:
        self.space = space

    def act(self, obs: NDArray, state: Any, first: NDArray, noise: Noise) -> Decision:
        if isinstance(self.space, gym.spaces.Box):
            low, high = np.clip(self.space.low, -1e3, None), np.clip(self.space.high, None, 1e3)
            return Decision(np.stack([rng.uniform(low, high) for rng in noise]).astype(np.float32))
        sizes = np.asarray(self.space.n if isinstance(self.space, gym.spaces.Discrete) else self.space.nvec)  # type: ignore[attr-defined]
        return Decision(np.stack([np.asarray(rng.integers(0, sizes)) for rng in noise]))


def sample(space: gym.Space, params: NDArray, noise: Noise) -> NDArray:
    """An action for each row from its own generator: whatever else is in the batch, it stays the same."""
    if isinstance(space, gym.spaces.Box):
        mean, log_std = np.split(params, 2, -1)
        return (mean + np.exp(log_std) * np.stack([rng.standard_normal(mean.shape[-1]) for rng in noise])).astype("f4")
    race = np.stack([rng.exponential(size=params.shape[-1]) for rng in noise])
    if isinstance(space, gym.spaces.MultiDiscrete):
        cuts = np.cumsum(space.nvec)[:-1]
        heads = zip(np.split(params, cuts, -1), np.split(race, cuts, -1), strict=True)
        return np.stack([_categorical(logits, r) for logits, r in heads], -1)
    return _categorical(params, race)


def _categorical(logits: NDArray, race: NDArray) -> NDArray:
    """argmax p / Exp(1) is distributed as p."""
    return np.argmax(np.exp(logits - logits.max(-1, keepdims=True)) / race, -1)
