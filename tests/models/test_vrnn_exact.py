"""The VRNN's bound where the truth is known: a linear-Gaussian model whose heads are the Kalman filter; and what the
coarser of two latents is wired to."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gala.models.bounds import importance_weighted_bound
from gala.models.likelihoods import MIN_STD, Gaussian
from gala.models.vrnn import VRNN
from gala.models.vrnn_shape import VrnnShape
from gala.supervised.particles import PARTICLE, kalman_filter
from gala.supervised.video_data import draw

STEPS, BATCH = 6, 8


class Remember(nn.Module):
    """In the place of a recurrent cell: hidden is (E[z_t | x_<t], its variance, t) by the Kalman filter's rules."""

    def forward(self, x, h):
        mean, var, t = h.chunk(3, 1)
        gain = var / (var + PARTICLE.blurred**2)
        mean = PARTICLE.keep * (mean + gain * (x[:, :1] - mean))
        var = PARTICLE.keep**2 * (1 - gain) * var + PARTICLE.moved**2
        first = t == 0
        mean, var = torch.where(first, 0.0, mean), torch.where(first, PARTICLE.spread**2, var)
        return torch.cat([mean, var, t + 1], 1)


class Predict(nn.Module):
    """The prior p(z_t | x_<t)."""

    def forward(self, x):
        return Gaussian(x[:, :1], x[:, 1:2].sqrt())


class Update(nn.Module):
    """The posterior p(z_t | x_<=t), or one that is wrong by ``shift`` and by a factor of its deviation."""

    def __init__(self, shift=0.0, factor=1.0):
        super().__init__()
        self.shift, self.factor = shift, factor

    def forward(self, x):
        seen, mean, var = x[:, :1], x[:, 1:2], x[:, 2:3]
        gain = var / (var + PARTICLE.blurred**2)
        return Gaussian(mean + gain * (seen - mean) + self.shift, self.factor * ((1 - gain) * var).sqrt())


class Pixels(nn.Module):
    """Mean z_t, deviation ``PARTICLE.blurred``, as the Gaussian likelihood wants them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))  # the model asks it for type and device

    def forward(self, x):
        raw = math.log(math.expm1(PARTICLE.blurred - MIN_STD))
        return torch.cat([x[:, -1:], torch.full_like(x[:, -1:], raw)], 1)


class Alone(nn.Module):
    """In the place of the encoder."""

    def forward(self, frame):
        return [frame]


def kalman_vrnn(shift=0.0, factor=1.0):
    shape = VrnnShape((1, 1, 1), scales=1, levels=1, width=3, latent=1, context=0, likelihood="gaussian")
    model = VRNN(shape).double()
    model.encoder = Alone()
    model.cells[0], model.priors[0], model.posteriors[0] = Remember(), Predict(), Update(shift, factor)
    model.stages[0], model.out = nn.Identity(), Pixels()
    return model


def particles():
    frames = draw("particle", "test", BATCH, STEPS, 3).frames.double()
    exact = kalman_filter(frames[..., 0, 0, 0].numpy()).log_prob
    return frames, torch.from_numpy(exact)


def expected_bound(model, frames):
    """[T, B]: E_q[log p(x_t | z_t)] - KL, without sampling error: of a quadratic in z, the mean over mean +- std is the
    expectation under N(mean, std^2). The state does not depend on what was drawn."""
    state, terms = model.initial(frames.shape[1]), []
    for frame in frames:
        q = model.observe(state, frame)[1].posteriors[0]
        sides = [model.observe(state, frame, latents=[q.mean + sign * q.std])[1] for sign in (-1, 1)]
        terms.append((sides[0].log_prob + sides[1].log_prob) / 2 - sides[0].kl.sum(0))
        state, _ = model.observe(state, frame)
    return torch.stack(terms)


@torch.no_grad()
def test_with_the_exact_posterior_the_bound_is_the_kalman_filters_likelihood():
    frames, exact = particles()
    model = kalman_vrnn()
    assert torch.allclose(expected_bound(model, frames), exact, atol=1e-5, rtol=0)
    weighted = importance_weighted_bound(model, frames, None, 1, torch.Generator().manual_seed(0))
    assert torch.allclose(weighted, exact.sum(0), atol=1e-5, rtol=0), "one draw is enough: its weight is p(x)"


@pytest.mark.parametrize(("shift", "factor"), [(0.2, 1.0), (-0.5, 1.0), (0.0, 0.5), (0.0, 2.0), (0.3, 1.5)])
@torch.no_grad()
def test_any_other_posterior_lies_below_by_its_divergence_from_the_exact_one(shift, factor):
    frames, exact = particles()
    bound = expected_bound(kalman_vrnn(shift, factor), frames)
    assert (bound < exact - 1e-3).all()
    std = torch.from_numpy(np.sqrt(kalman_filter(frames[..., 0, 0, 0].numpy()).var))
    divergence = 0.5 * (factor**2 + (shift / std) ** 2 - 1) - math.log(factor)
    assert torch.allclose(exact - bound, divergence, atol=1e-9)
    draws = kalman_vrnn(shift, factor)(frames.repeat_interleave(500, 1), None, torch.Generator().manual_seed(1)).bound
    draws = draws.view(BATCH, 500)
    assert ((draws.mean(1) - bound.sum(0)).abs() < 5 * draws.std(1) / math.sqrt(500)).all()


class Silent(nn.Module):
    """A latent that is 0, of which prior and posterior say the same."""

    def forward(self, x):
        zero = x.new_zeros(len(x), 2, *x.shape[2:])
        return Gaussian(zero, zero + 1e-12)


@pytest.mark.parametrize("frame", [(1, 1, 1), (1, 8, 8)])
@torch.no_grad()
def test_a_coarse_latent_of_zero_is_no_latent(frame):
    """A silent first level costs nothing, and the model is the one whose weights for it are 0: what it says reaches the
    rest by these alone. One that speaks does change what the second level believes."""
    torch.manual_seed(0)
    shape = VrnnShape(frame, scales=2, levels=2, width=5, latent=2, context=1, likelihood="gaussian")
    model = VRNN(shape).double()
    for head in (*model.priors, *model.posteriors):
        nn.init.normal_(head.last.weight)
    frames = torch.rand(4, 3, *frame, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    look = lambda: model(frames, None, torch.Generator().manual_seed(2))  # noqa: E731
    spoken = look()
    model.priors[0], model.posteriors[0] = Silent(), Silent()
    silent = look()
    assert silent.kl[:, 0].abs().max() == 0 and (silent.kl[:, 1] > 0).all()
    cell, decoder = model.cells[-1], model.stages[-1][0]
    cell.gates.weight[:, 5:7], cell.candidate.weight[:, 5:7], decoder.weight[:, 10:12] = 0.0, 0.0, 0.0
    without = look()
    for name in ("log_prob", "kl"):
        assert torch.allclose(getattr(silent, name), getattr(without, name), atol=1e-9)
        assert not torch.allclose(getattr(silent, name), getattr(spoken, name), atol=1e-6)


def test_the_capacity_of_the_likelihood_is_the_decoders_alone():
    def shapes(blocks):
        shape = VrnnShape((1, 8, 8), scales=2, levels=2, width=4, latent=2, decoder_blocks=blocks)
        return {name: p.shape for name, p in VRNN(shape).state_dict().items()}

    plain, usual, deep = shapes(0), shapes(1), shapes(3)
    assert plain.items() < usual.items() < deep.items()
    assert {name.partition(".")[0] for name in deep.keys() - plain.keys()} == {"stages"}
    with pytest.raises(ValueError, match="decoder_blocks"):
        shapes(-1)
