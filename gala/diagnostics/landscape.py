"""Losses of a frozen batch as functions of the parameters, and what they are along lines."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gala.diagnostics.curvature import Loss, Product, bend_of_fisher, flat, gauss_newton_product
from gala.rl.a2c import Coefficients, rollout_loss
from gala.rl.rollout import Policy, Rollout


def frozen_losses(policy: Policy, rollout: Rollout, coefficients: Coefficients, entropy_coef: float) -> dict[str, Loss]:
    """policy, value (without its coefficient) and total: A2C's losses of this rollout as functions of the policy's
    parameters. Advantages and value targets stay those of the parameters at this call."""
    frozen = dataclasses.replace(rollout, acting=None)
    with torch.no_grad():
        values = rollout_loss(policy, frozen, coefficients, entropy_coef).value

    def part(name: str) -> Callable[[], Tensor]:
        return lambda: getattr(rollout_loss(policy, frozen, coefficients, entropy_coef, values).loss, name)

    return {name: part(name) for name in ("policy", "value", "total")}


def policy_fisher(policy: Policy, rollout: Rollout, params: Sequence[Tensor]) -> Product:
    """v -> F v with F the Fisher matrix of the policy, a mean over the rollout's valid rows: the Hessian of the KL
    divergence from the policy as it is, positive semidefinite."""
    out = policy.unroll(rollout.obs, rollout.state, rollout.first)
    root = policy.distribution.fisher_root(out.params.detach())
    return gauss_newton_product(out.params, bend_of_fisher(root, rollout.valid / rollout.valid.sum()), params)


@contextlib.contextmanager
def parameters_at(params: Sequence[Tensor], point: Tensor) -> Iterator[None]:
    """``params`` have the values ``point [d]`` inside, and their own again after it."""
    before = [p.detach().clone() for p in params]
    try:
        _write(params, list(point.split([p.numel() for p in params])))
        yield
    finally:
        _write(params, before)


@torch.no_grad()
def _write(params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for p, x in zip(params, values, strict=True):
        p.copy_(x.view_as(p))


def loss_along(loss: Loss, params: Sequence[Tensor], direction: Tensor, lengths: Sequence[float]) -> Tensor:
    """Changes of the loss, ``[len(lengths)]``, at the parameters plus each length times ``direction [d]``.

    With direction -lr g it is the loss along SGD's step; with -lr <g, e> e, along one sharp direction alone, where a
    quadratic falls up to length 1 / (lr lambda) and is back at 2 / (lr lambda) (arXiv 1807.05031, section 3.2).
    """
    here = flat([p.detach() for p in params])
    changes = []
    with torch.no_grad():
        start = loss()
        for length in lengths:
            with parameters_at(params, here + length * direction):
                changes.append(loss() - start)
    return torch.stack(changes)


def barrier(loss: Loss, params: Sequence[Tensor], a: Tensor, b: Tensor, points: int = 11) -> float:
    """How far the loss rises, between the points a and b ``[d]``, above the line between its values there; 0 or more.
    Two learners without a barrier lie in one basin, and their mean is as good as they are."""
    heights = []
    with torch.no_grad():
        for share in torch.linspace(0.0, 1.0, points).tolist():
            with parameters_at(params, a + share * (b - a)):
                heights.append(float(loss()))
    return max(h - heights[0] - (heights[-1] - heights[0]) * i / (points - 1) for i, h in enumerate(heights))


def share_in(vectors: Tensor, direction: Tensor) -> float:
    """Share of ``direction [d]``'s squared length in the span of the orthonormal ``vectors [d, k]``; k / d for a random
    one. Of a learner's deviation from the mean of all, and sharp vectors: how much of it is where the loss bends."""
    return float((vectors.T @ direction).square().sum() / direction.square().sum())
