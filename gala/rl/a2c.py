"""The advantage actor-critic loss, on one page: of any batch, and of a rollout."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gala.rl.returns import generalized_advantages
from gala.rl.rollout import Policy, Rollout


class Coefficients(Protocol):
    """The numbers of the loss; ``gala.config.schema.A2CConfig`` has them."""

    @property
    def gamma(self) -> float: ...
    @property
    def gae_lambda(self) -> float: ...
    @property
    def value_coef(self) -> float: ...
    @property
    def normalize_advantages(self) -> bool: ...
    @property
    def l2(self) -> float: ...


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
    """Zero mean and unit variance over the valid rows of ``[T, B]``; without any they stay as they are."""
    rows = advantage[valid]
    if not len(rows):  # all simulators of a short rollout were reset in it; a mean of nothing is NaN
        return advantage
    return (advantage - rows.mean()) / (rows.std(correction=0) + eps)


class RolloutLoss(NamedTuple):
    """The loss of a rollout, and what it was computed from."""

    loss: A2CLoss
    target: Tensor
    """Value targets ``[T, B]``, constants."""
    value: Tensor
    """Values ``[T, B]`` that the advantages were computed with, constants."""


def rollout_loss(
    policy: Policy, rollout: Rollout, coefficients: Coefficients, entropy_coef: float, values: Tensor | None = None
) -> RolloutLoss:
    """``a2c_loss`` of a rollout, with value targets R = A + V(s) and, if there is one, the policy's auxiliary loss.

    Differentiates the passes that chose the actions where the rollout kept them, and else runs the policy again.
    Advantages are normalised, if they are to be, after the value targets were built from them. They are computed with
    ``values [T, B]`` if these are given, and else with the policy's own: given, they do not move with its parameters.
    """
    r, c = rollout, coefficients
    out = policy.unroll(r.obs, r.state, r.first) if r.acting is None else r.acting
    v_tm1 = out.value.detach() if values is None else values
    advantage = rollout_advantages(r, v_tm1, c.gamma, c.gae_lambda)
    target = advantage + v_tm1
    if c.normalize_advantages:
        advantage = normalize(advantage, r.valid)
    loss = a2c_loss(
        policy.distribution.log_prob(out.params, r.action),
        policy.distribution.entropy(out.params),
        out.value,
        target,
        advantage,
        r.valid,
        value_coef=c.value_coef,
        entropy_coef=entropy_coef,
    )
    extra = policy.auxiliary_loss(r.obs, r.action, r.reward, unbroken(r))
    return RolloutLoss(loss if extra is None else loss._replace(total=loss.total + extra), target, v_tm1)


def rollout_advantages(r: Rollout, v_tm1: Tensor, gamma: float, lambda_: float) -> Tensor:
    """Advantages ``[T, B]`` of a rollout, given its values ``v_tm1 [T, B]``; those of autoreset rows mean nothing."""
    v_next = torch.cat([v_tm1[1:], r.last_value.unsqueeze(0)])
    v_t = torch.where(r.truncated, r.v_final, v_next)
    discount_t = gamma * (~r.terminated).float()
    continue_t = (~(r.terminated | r.truncated)).float()
    return generalized_advantages(r.reward, discount_t, continue_t, v_tm1, v_t, lambda_)


def unbroken(r: Rollout) -> Tensor:
    """bool ``[T - 1, B]``: steps whose successor in the rollout is the observation that they led to."""
    return (r.valid & ~(r.terminated | r.truncated))[:-1]
