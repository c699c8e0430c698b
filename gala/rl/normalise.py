"""Running statistics of observations and of discounted returns. They travel with the checkpoint and freeze in evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class RunningMoments:
    """Count, mean and sum of squared deviations (M2) of a stream of vectors, merged exactly (Chan et al. 1979)."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = 0.0
        self.mean = np.zeros(shape, np.float64)
        self.m2 = np.zeros(shape, np.float64)

    def update(self, batch: NDArray) -> None:
        """``batch [N, *shape]``; N = 0 is allowed."""
        if len(batch):
            batch = np.asarray(batch, np.float64)
            mean = batch.mean(0)
            self.merge(len(batch), mean, ((batch - mean) ** 2).sum(0))

    def merge(self, count: float, mean: NDArray, m2: NDArray) -> None:
        """Add another stream's statistics, as if its samples had been seen here."""
        total = self.count + count
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self.m2 = self.m2 + m2 + shift**2 * (self.count * count / total)
        self.count = total

    @property
    def std(self) -> NDArray:
        """Population standard deviation; 1 until two samples were seen."""
        if self.count < 2:
            return np.ones_like(self.mean)
        return np.sqrt(self.m2 / self.count)

    def state(self) -> dict[str, NDArray]:
        return {"count": np.asarray(self.count), "mean": self.mean.copy(), "m2": self.m2.copy()}

    def load_state(self, state: dict[str, NDArray]) -> None:
        if np.shape(state["mean"]) != self.mean.shape:
            raise ValueError(f"normaliser of shape {np.shape(state['mean'])} does not fit observations {self.mean.shape}")
        self.count = float(state["count"])
        self.mean, self.m2 = np.array(state["mean"], np.float64), np.array(state["m2"], np.float64)


class ObsNormalizer:
    """Standardises vector observations and clips them to +-``clip``."""

    def __init__(self, shape: tuple[int, ...], clip: float) -> None:
        self.moments = RunningMoments(shape)
        self.clip = clip

    def update(self, obs: NDArray) -> None:
        """Learn from ``obs [N, ...]``."""
        self.moments.update(obs)

    def __call__(self, obs: NDArray) -> NDArray:
        """``obs [N, ...]`` -> float32 of the same shape, with the statistics as they are."""
        scale = 1.0 / np.sqrt(self.moments.std**2 + 1e-8)
        return np.clip((obs - self.moments.mean) * scale, -self.clip, self.clip).astype(np.float32)


class ReturnScaler:
    """Divides rewards by the running standard deviation of each row's discounted return, and clips to +-``clip``."""

    def __init__(self, num_envs: int, gamma: float, clip: float) -> None:
        self.moments = RunningMoments()
        self.gamma, self.clip = gamma, clip
        self._returns = np.zeros(num_envs, np.float64)

    def __call__(self, reward: NDArray, done: NDArray, valid: NDArray) -> NDArray:
        """``reward, done, valid [B]`` -> scaled float32 ``[B]``; learns from the valid rows."""
        self._returns = np.where(valid, self._returns * self.gamma + reward, 0.0)
        self.moments.update(self._returns[valid])
        self._returns[done] = 0.0
        scaled = reward / np.sqrt(self.moments.std**2 + 1e-8)
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)
