"""Likelihoods of frames, as functions of what a decoder says about each pixel; and the diagonal Gaussian of latents.

A decoder gives ``num_params`` channels for every channel of the frame, all first parameters first: ``params
[N, num_params * C, H, W]`` for a frame ``[N, C, H, W]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
MIN_STD = 1e-2
"""The least deviation of a Gaussian pixel: the density of one that never changes would else have no bound."""
MIN_SCALE = 1e-3
STEPS = 255
"""Pixels of the discretised logistic are k / 255."""


class Likelihood(NamedTuple):
    """A family of distributions over pixels that are independent given their parameters.

    Attributes:
        num_params: parameters per number of the frame.
        log_prob: (params, frame) -> ``[N, C, H, W]`` in nats; a density for the Gaussian, else a probability.
        centre: params -> the frame to show: the mean (Bernoulli, Gaussian) or the median, cut to [0, 1] (logistic).
        sample: (params, generator) -> a frame.
    """

    num_params: int
    log_prob: Callable[[Tensor, Tensor], Tensor]
    centre: Callable[[Tensor], Tensor]
    sample: Callable[[Tensor, torch.Generator | None], Tensor]


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _bernoulli_log_prob(logits: Tensor, frame: Tensor) -> Tensor:
    return -F.binary_cross_entropy_with_logits(logits, frame, reduction="none")


def _bernoulli_sample(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    return (_uniform(logits, generator) < torch.sigmoid(logits)).to(logits.dtype)


def _mean_and_std(params: Tensor) -> tuple[Tensor, Tensor]:
    mean, raw = params.chunk(2, 1)
    return mean, F.softplus(raw) + MIN_STD


def _gaussian_log_prob(params: Tensor, frame: Tensor) -> Tensor:
    mean, std = _mean_and_std(params)
    return -0.5 * ((frame - mean) / std) ** 2 - std.log() - _LOG_SQRT_2PI


def _gaussian_sample(params: Tensor, generator: torch.Generator | None) -> Tensor:
    mean, std = _mean_and_std(params)
    return mean + std * torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)


def _location_and_scale(params: Tensor) -> tuple[Tensor, Tensor]:
    location, raw = params.chunk(2, 1)
    return location, F.softplus(raw - 2.0) + MIN_SCALE


def _logistic_log_prob(params: Tensor, frame: Tensor) -> Tensor:
    """log of sigmoid(upper) - sigmoid(lower), the mass between two half steps; the outermost two reach to infinity.

    Written as sigmoid(upper) sigmoid(-lower) (1 - exp(lower - upper)), which loses no digits in the tails (the
    discretisation is that of PixelCNN++, arXiv 1701.05517, eq. 2, with one component).
    """
    location, scale = _location_and_scale(params)
    upper = (frame + 0.5 / STEPS - location) / scale
    lower = (frame - 0.5 / STEPS - location) / scale
    below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
    between = below + above + torch.log(-torch.expm1(-1.0 / (STEPS * scale)))
    least, most = frame < 0.5 / STEPS, frame > 1 - 0.5 / STEPS
    return torch.where(least, below, torch.where(most, above, between))


def _logistic_sample(params: Tensor, generator: torch.Generator | None) -> Tensor:
    location, scale = _location_and_scale(params)
    u = _uniform(location, generator).clamp(1e-6, 1 - 1e-6)
    return ((location + scale * torch.logit(u)) * STEPS).round().div(STEPS).clamp(0, 1)


LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Likelihood(1, _bernoulli_log_prob, torch.sigmoid, _bernoulli_sample),
    "gaussian": Likelihood(2, _gaussian_log_prob, lambda params: params.chunk(2, 1)[0], _gaussian_sample),
    "disc-logistic": Likelihood(
        2, _logistic_log_prob, lambda params: params.chunk(2, 1)[0].clamp(0, 1), _logistic_sample
    ),
}
"""``bernoulli``: frames in [0, 1], exact for 0 and 1. ``gaussian``: real numbers, mean and deviation learned per pixel.
``disc-logistic``: frames of k / 255, location and scale learned per pixel."""


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean and standard deviation, both ``[N, ...]``."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Reparametrised: gradients reach mean and std."""
        mean = self.mean
        return mean + self.std * torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """[N], in nats, summed over all but the first dimension."""
        return (-0.5 * ((x - self.mean) / self.std) ** 2 - self.std.log() - _LOG_SQRT_2PI).flatten(1).sum(1)


def gaussian_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) in closed form, ``[N]`` in nats, summed over all but the first dimension."""
    ratio = q.std / p.std
    return (0.5 * (ratio**2 + ((q.mean - p.mean) / p.std) ** 2 - 1.0) - ratio.log()).flatten(1).sum(1)
