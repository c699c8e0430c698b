"""Bounds of a VRNN on the likelihood of videos, and the weight of their KL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gala.models.vrnn import VRNN, Trace

ACTIVE = 0.01
"""Variance over videos of a unit's posterior mean above which it carries something (arXiv 1509.00519, section 5)."""


def warm_up(iteration: int, iterations: int) -> float:
    """Weight of the KL: from 0 at iteration 0 to 1 at ``iterations``, linear, 1 after it (0: always 1)."""
    return min(1.0, iteration / iterations) if iterations else 1.0


def importance_weighted_bound(
    model: VRNN, frames: Tensor, actions: Tensor | None, samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """The bound of arXiv 1509.00519 (eq. 8) on log p(x_context.. | x_<context), [B] in nats, summed over frames.

    It rises with ``samples`` to the truth, in expectation; with one it is a single draw of the evidence lower bound.
    """
    copies = [None if x is None else x.repeat_interleave(samples, 1) for x in (frames, actions)]
    assert copies[0] is not None
    trace = model(copies[0], copies[1], generator)
    weights = (trace.log_prob - trace.log_ratio).sum(0).unflatten(0, (-1, samples))
    return torch.logsumexp(weights, 1) - math.log(samples)


@torch.no_grad()
def active_units(trace: Trace) -> list[int]:
    """How many numbers of each level's latent, from coarse to fine, carry something of the last frame: the variance
    over videos of their posterior's mean is more than ``ACTIVE``."""
    return [int((posterior.mean.flatten(1).var(0) > ACTIVE).sum()) for posterior in trace.last.posteriors]
