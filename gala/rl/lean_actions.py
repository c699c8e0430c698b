"""Action distributions for ``gala.rl.lean``: samples, and the gradient of what the loss takes of them, in NumPy.

The same families as ``gala.models.distributions``, from the same random streams: an action differs from the module's by
rounding only. ``head [N, outputs]`` is what the policy head puts out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray


class Terms(NamedTuple):
    """``log_prob`` and ``entropy`` [N], and the gradient [N, outputs] of sum(a log_prob + b entropy)."""

    log_prob: NDArray
    entropy: NDArray
    gradient: NDArray


class Family(Protocol):
    """One action space's distributions."""

    def mode(self, head: NDArray) -> NDArray: ...

    def sample(self, head: NDArray, generator: torch.Generator | None) -> NDArray: ...

    def terms(self, head: NDArray, action: NDArray, a: NDArray, b: NDArray) -> Terms:
        """For weights ``a`` and ``b`` [N]; a log-std's gradient goes into its ``.grad``, in place of what was there."""
        ...


def family_of(space: gym.Space, log_std: torch.Tensor | None, stretch: Sequence[torch.Tensor]) -> Family:
    """The family of an action space; ``stretch``: what ``gala.models.distributions.policy_range`` says of a Box."""
    if isinstance(space, gym.spaces.Box):
        assert log_std is not None
        return Gaussian(log_std, *(bound.numpy() for bound in stretch))
    several = isinstance(space, gym.spaces.MultiDiscrete)
    return Categoricals([int(n) for n in space.nvec] if several else [int(space.n)], several)  # type: ignore[attr-defined]


class Categoricals:
    """One categorical distribution, or one for each of ``sizes``, independent of each other."""

    def __init__(self, sizes: Sequence[int], several: bool) -> None:
        ends = np.cumsum(sizes)
        self._heads = [slice(end - n, end) for n, end in zip(sizes, ends, strict=True)]
        self._several = several

    def mode(self, head: NDArray) -> NDArray:
        actions = [head[:, columns].argmax(1) for columns in self._heads]
        return np.stack(actions, -1) if self._several else actions[0]

    def sample(self, head: NDArray, generator: torch.Generator | None) -> NDArray:
        actions = [self._sample_one(head[:, columns], generator) for columns in self._heads]
        return np.stack(actions, -1) if self._several else actions[0]

    def _sample_one(self, logits: NDArray, generator: torch.Generator | None) -> NDArray:
        race = torch.empty(logits.shape).exponential_(generator=generator).numpy()
        return (np.exp(logits - logits.max(1, keepdims=True)) / race).argmax(1)

    def terms(self, head: NDArray, action: NDArray, a: NDArray, b: NDArray) -> Terms:
        """d log p_k / d logits = e_k - p, and d H / d logits = -p (log p + H)."""
        log_prob, entropy, rows = np.zeros_like(a), np.zeros_like(a), np.arange(len(a))
        gradient = np.empty_like(head)
        for columns, chosen in zip(self._heads, action.T if self._several else [action], strict=True):
            logits = head[:, columns]
            log_p = logits - logits.max(1, keepdims=True)
            log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
            p = np.exp(log_p)
            its_entropy = -(p * log_p).sum(1)
            part = -p * (a[:, None] + b[:, None] * (log_p + its_entropy[:, None]))
            part[rows, chosen] += a
            gradient[:, columns] = part
            log_prob += log_p[rows, chosen]
            entropy += its_entropy
        return Terms(log_prob, entropy, gradient)


_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Gaussian:
    """Independent normal numbers with a log-std that is the same everywhere, stretched to ``centre`` +- ``half``."""

    def __init__(self, log_std: torch.Tensor, centre: NDArray, half: NDArray) -> None:
        assert log_std.grad is not None, "gradients must be views of a flat one"
        self._log_std, self._log_std_grad = log_std.detach().numpy(), log_std.grad.numpy()
        self._stretch = (centre, half) if centre.any() or (half != 1).any() else None

    def mode(self, head: NDArray) -> NDArray:
        return head if self._stretch is None else self._stretch[0] + self._stretch[1] * head

    def sample(self, head: NDArray, generator: torch.Generator | None) -> NDArray:
        return self.mode(np.exp(self._log_std) * torch.randn(head.shape, generator=generator).numpy() + head)

    def terms(self, head: NDArray, action: NDArray, a: NDArray, b: NDArray) -> Terms:
        """With z = (action - mean) / std, d log_prob is z / std to the mean, z^2 - 1 to the log-std; d entropy is 1."""
        if self._stretch is not None:
            action = (action - self._stretch[0]) / self._stretch[1]
        inverse, total, size = np.exp(-self._log_std), self._log_std.sum(), len(self._log_std)
        z = (action - head) * inverse
        squares, a_ = z * z, a[:, None]
        np.sum(a_ * squares, 0, out=self._log_std_grad)
        self._log_std_grad += b.sum() - a.sum()
        log_prob = -0.5 * squares.sum(1) - (total + size * _LOG_SQRT_2PI)
        entropy = np.full_like(a, total + size * (0.5 + _LOG_SQRT_2PI))
        return Terms(log_prob, entropy, a_ * z * inverse)
