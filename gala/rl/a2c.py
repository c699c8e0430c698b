"""The advantage actor-critic loss, on one page."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class A2CLoss(NamedTuple):
    """Scalars. ``total`` is what is minimised; the others are for the log."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor


def a2c_loss(
    log_prob: Tensor,
    entropy: Tensor,
    value: Tensor,
    target: Tensor,
    advantage: Tensor,
    valid: Tensor,
    *,
    value_coef: float,
    entropy_coef: float,
) -> A2CLoss:
    """Policy gradient with a baseline, a value regression, an entropy bonus (Mnih et al. 2016, arXiv 1602.01783).

        L = mean_valid[ -log pi(a|s) A  +  value_coef (R - V(s))^2  -  entropy_coef H(pi(.|s)) ]

    Args:
        log_prob, entropy, value: ``[T, B]``, differentiable.
        target, advantage: R and A, ``[T, B]``, constants.
        valid: bool ``[T, B]``; False rows (autoreset rows) enter no mean.
    """
    assert log_prob.ndim == 2
    assert log_prob.shape == entropy.shape == value.shape == target.shape == advantage.shape == valid.shape
    assert not advantage.requires_grad and not target.requires_grad and valid.dtype == torch.bool
    weight = valid / valid.sum().clamp(min=1)
    policy = -(weight * advantage * log_prob).sum()
    value_error = (weight * (target - value) ** 2).sum()
    bonus = (weight * entropy).sum()
    return A2CLoss(policy + value_coef * value_error - entropy_coef * bonus, policy, value_error, bonus)


def normalize(advantage: Tensor, valid: Tensor, eps: float = 1e-8) -> Tensor:
    """Zero mean and unit variance over the valid rows of ``[T, B]``."""
    rows = advantage[valid]
    return (advantage - rows.mean()) / (rows.std(correction=0) + eps)
