"""Simulators made as slow, and as uneven, as real ones can be: for experiments with stragglers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from gala_envs.contract import Array, BatchedEnv, Step


class DelayedEnv:
    """``env``, whose batched step takes as long as the slowest of its rows.

    Each row's decision takes a lognormal time of mean ``mean_s`` (heavy-tailed from ``sigma`` 1 on; constant at 0), as
    if each simulator had a core of its own; the step returns when the last row is done, times ``factor``. Waiting costs
    no processor time.

    Raises:
        ValueError: ``mean_s`` or ``sigma`` below 0, or ``factor`` not above 0.
    """

    SAVED = ("_env", "_rng")

    def __init__(self, env: BatchedEnv, mean_s: float, sigma: float, seed: int, factor: float = 1.0) -> None:
        if mean_s < 0 or sigma < 0 or factor <= 0:
            raise ValueError(f"delays want mean_s, sigma >= 0 and factor > 0; got {mean_s}, {sigma}, {factor}")
        self._env, self._scale_s, self._sigma, self._seed = env, mean_s * factor, sigma, seed
        self._rng = np.random.default_rng(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def draw_s(self) -> Array:
        """Seconds that each row's next decision takes, [B]."""
        # exp(mu + sigma^2 / 2) is the mean of a lognormal: mu makes it 1.
        times = self._rng.lognormal(-(self._sigma**2) / 2, self._sigma, self._env.num_envs)
        return self._scale_s * times

    def reset(self, seed: int | None = None) -> Array:
        self._rng = np.random.default_rng([self._seed, seed or 0])
        return self._env.reset(seed)

    def step(self, actions: Array) -> Step:
        done_at = time.monotonic() + float(self.draw_s().max())
        step = self._env.step(actions)
        time.sleep(max(0.0, done_at - time.monotonic()))
        return step

    def close(self) -> None:
        self._env.close()
