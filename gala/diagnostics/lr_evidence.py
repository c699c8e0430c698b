"""What ``gala suggest-lr`` measures of a checkpoint: the noise scale with its range, and the curvature."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch

from gala.diagnostics import curvature, noise_scale
from gala.diagnostics.curvature import flat
from gala.diagnostics.landscape import frozen_losses
from gala.diagnostics.noise_scale import Moments
from gala.evaluation.frozen import Frozen
from gala.optim.lr_scaling import is_sgd


class Evidence(NamedTuple):
    """noise_scale in simulators, with the range of two standard errors of its signal; infinite where none shows.
    sharpness: the largest eigenvalue of the total loss's Hessian, as the optimiser scales gradients; NaN where how it
    does is not known."""

    noise_scale: float
    low: float
    high: float
    sharpness: float


def measure(frozen: Frozen) -> Evidence:
    """From all rollouts of the checkpoint. Advantages count unnormalised for the noise."""
    coefficients = dataclasses.replace(frozen.coefficients, normalize_advantages=False)
    each = [
        noise_scale.moments(
            noise_scale.per_environment_gradients(
                frozen.policy, rollout, coefficients, frozen.entropy_coef, frozen.params
            )
        )
        for rollout in frozen.rollouts
    ]
    return Evidence(*noise_range(each), _sharpness(frozen))


def noise_range(each: list[Moments]) -> tuple[float, float, float]:
    """(noise scale, low, high): the ratio of mean noise to mean signal, and the same with the signal two standard
    errors higher and lower; from two rollouts or more. The noise itself is known far better than the signal."""
    signals = torch.tensor([m.signal for m in each], dtype=torch.float64)
    noise, signal = sum(m.noise for m in each) / len(each), float(signals.mean())
    error = 2 * float(signals.std()) / len(each) ** 0.5

    def ratio(of: float) -> float:
        return noise / of if of > 0 else math.inf

    return ratio(signal), ratio(signal + error), ratio(signal - error)


def _sharpness(frozen: Frozen) -> float:
    """0 where the spectrum does not converge, NaN if the optimiser rewrites gradients in a way that is not known."""
    if frozen.scale is None and not is_sgd(frozen.config.optim.name):
        return math.nan
    rollout = frozen.rollouts[0]
    loss = frozen_losses(frozen.policy, rollout, frozen.coefficients, frozen.entropy_coef)["total"]
    product, here = curvature.hessian_product(loss, frozen.params), flat(frozen.params).detach()
    if frozen.scale is not None:
        product = curvature.preconditioned(product, frozen.scale)
    try:
        return float(curvature.top_eigenpairs(product, here, 1, tolerance=1e-2, most_restarts=30).values[0])
    except RuntimeError:
        return 0.0
