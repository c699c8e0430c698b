"""Running statistics of observations and of discounted returns. Checkpointed; frozen in evaluation.

They see every batched step, of a few dozen rows: plain ufuncs stand for ``mean`` and ``np.clip``, which take several
times as long there and give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_EPS = 1e-8
_MOST_UNREAD = 1024
"""Batches that wait to be learned from; a learner asks once an update."""


class RunningMoments:
    """Count, mean and sum of squared deviations (M2) of a stream of vectors, merged exactly (Chan et al. 1979)."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = 0.0
        self.mean = np.zeros(shape, np.float64)
        self.m2 = np.zeros(shape, np.float64)
        self._scale = self.m2
        self._scale_of: NDArray | None = None

    def update(self, batch: NDArray) -> None:
        """``batch [N, *shape]``; N = 0 is allowed."""
        if len(batch):
            batch = np.asarray(batch, np.float64)
            mean = np.add.reduce(batch, 0) / len(batch)
            shift = batch - mean
            self.merge(len(batch), mean, np.add.reduce(shift * shift, 0))

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

    @property
    def scale(self) -> NDArray:
        """What standardised deviations are multiplied by: 1 / std, bounded where there is no deviation."""
        if self._scale_of is not self.m2:
            self._scale, self._scale_of = 1.0 / np.sqrt(self.std**2 + _EPS), self.m2
        return self._scale

    def pack(self) -> NDArray:
        """[count, *mean, *m2] as one float64 vector."""
        return np.concatenate([[self.count], np.ravel(self.mean), np.ravel(self.m2)])

    @classmethod
    def unpack(cls, packed: NDArray, shape: tuple[int, ...]) -> RunningMoments:
        """The inverse of ``pack``. Raises ValueError if the vector belongs to another shape."""
        moments = cls(shape)
        size = int(np.prod(shape))
        if packed.shape != (1 + 2 * size,):
            raise ValueError(f"normaliser state of length {len(packed)} does not fit observations of shape {shape}")
        moments.count = float(packed[0])
        moments.mean = packed[1 : 1 + size].reshape(shape).copy()
        moments.m2 = packed[1 + size :].reshape(shape).copy()
        return moments

    @classmethod
    def pooled(cls, packed: NDArray, shape: tuple[int, ...]) -> RunningMoments:
        """The statistics of several streams together; ``packed [n, 1 + 2 size]``, one row per stream."""
        total, size = cls(shape), int(np.prod(shape))
        assert packed.shape[1] == 1 + 2 * size
        packed = packed[packed[:, 0] > 0]
        if len(packed):
            counts, means, m2 = packed[:, 0], packed[:, 1 : 1 + size], packed[:, 1 + size :]
            total.count = float(counts.sum())
            mean = counts @ means / total.count
            total.mean = mean.reshape(shape)
            total.m2 = (m2.sum(0) + counts @ (means - mean) ** 2).reshape(shape)
        return total


class ObsNormalizer:
    """Standardises vector observations and clips them to +-``clip``.

    ``own`` is what this learner saw; ``applied`` is what is divided by: the same, or all learners' statistics pooled.
    Averaged networks need pooled statistics, or each would see its inputs on another scale.

    ``num_mask``: so many numbers at the end of an observation, a vector then, are a mask and stay as they are; the
    others have ``shape``.
    """

    def __init__(self, shape: tuple[int, ...], clip: float, num_mask: int = 0) -> None:
        self.shape, self.clip, self.num_mask = shape, clip, num_mask
        self.applied = self._own = RunningMoments(shape)
        self._unread: list[NDArray] = []

    @property
    def own(self) -> RunningMoments:
        if self._unread:
            batches, self._unread = self._unread, []
            self._own.update(np.concatenate(batches))
        return self._own

    @own.setter
    def own(self, moments: RunningMoments) -> None:
        self._own, self._unread = moments, []

    def update(self, obs: NDArray) -> None:
        """Learn from ``obs [N, ...]``: at once if it is applied, else when ``own`` is asked for, from all together."""
        obs = self._seen(obs)
        if self.applied is self._own:
            self._own.update(obs)
        else:
            self._unread.append(obs)
            if len(self._unread) == _MOST_UNREAD:
                _ = self.own

    def __call__(self, obs: NDArray) -> NDArray:
        """``obs [N, ...]`` -> float32 of the same shape, with the statistics as they are."""
        numbers = _clipped((self._seen(obs) - self.applied.mean) * self.applied.scale, self.clip)
        if not self.num_mask:
            return numbers
        mask = obs[:, -self.num_mask :].astype(np.float32)
        return np.concatenate([numbers.reshape(len(obs), -1), mask], 1)

    def _seen(self, obs: NDArray) -> NDArray:
        return obs[:, : -self.num_mask].reshape(len(obs), *self.shape) if self.num_mask else obs


class ReturnScaler:
    """Divides rewards by the running standard deviation of each row's discounted return, and clips to +-``clip``.

    ``own`` and ``applied`` as in ``ObsNormalizer``.
    """

    shape: tuple[int, ...] = ()

    def __init__(self, num_envs: int, gamma: float, clip: float) -> None:
        self.own = self.applied = RunningMoments()
        self.gamma, self.clip = gamma, clip
        self.running_returns = np.zeros(num_envs, np.float64)
        """Discounted return of each row's episode so far."""

    def __call__(self, reward: NDArray, done: NDArray, valid: NDArray) -> NDArray:
        """``reward, done, valid [T, B]`` -> scaled float32 ``[T, B]``; learns from the valid rows."""
        returns = np.empty(reward.shape)
        for t in range(len(reward)):
            returns[t] = np.where(valid[t], self.running_returns * self.gamma + reward[t], 0.0)
            self.running_returns = np.where(done[t], 0.0, returns[t])
        if self.applied is not self.own:
            self.own.update(returns[valid])
            return _clipped(reward / np.sqrt(self.applied.std**2 + _EPS), self.clip)
        scaled = np.empty(reward.shape, np.float32)
        for t in range(len(reward)):  # each step by what was known then
            self.own.update(returns[t, valid[t]])
            scaled[t] = _clipped(reward[t] / np.sqrt(self.applied.std**2 + _EPS), self.clip)
        return scaled


class Normalizers:
    """The normalisers of one learner under the names that they have in a checkpoint, as one vector of statistics.

    ``packed`` vectors hold ``RunningMoments.pack`` of each, one after the other.
    """

    def __init__(self, obs: ObsNormalizer | None, returns: ReturnScaler | None) -> None:
        every = {"obs_moments": obs, "return_moments": returns}
        self.parts: dict[str, ObsNormalizer | ReturnScaler] = {k: part for k, part in every.items() if part is not None}

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def size(self) -> int:
        """Length of ``pack``."""
        return sum(_packed_size(part.shape) for part in self.parts.values())

    def pack(self) -> NDArray:
        """What this learner saw itself, float64 [size]."""
        return np.concatenate([part.own.pack() for part in self.parts.values()])

    def pool(self, rows: NDArray) -> None:
        """Normalise by the statistics of several learners together; ``rows [n, size]``, one ``pack`` of each."""
        for part, columns in self._columns():
            part.applied = RunningMoments.pooled(rows[:, columns], part.shape)

    def restore(self, packed: NDArray) -> None:
        """Take up what this learner saw before, float64 [size]."""
        for part, columns in self._columns():
            part.own = part.applied = RunningMoments.unpack(packed[columns], part.shape)

    def _columns(self) -> Iterator[tuple[ObsNormalizer | ReturnScaler, slice]]:
        start = 0
        for part in self.parts.values():
            yield part, slice(start, start := start + _packed_size(part.shape))


def _clipped(x: NDArray, limit: float) -> NDArray:
    return np.minimum(np.maximum(x, -limit), limit).astype(np.float32)


def _packed_size(shape: tuple[int, ...]) -> int:
    return 1 + 2 * int(np.prod(shape))
