"""Action distributions as functions of a parameter vector: no objects per step, one code path for [B] and [T, B].

Each record maps ``params [..., num_params]`` to samples, log-probabilities and entropies. ``action`` is
``[..., *action_shape]``: int64 for discrete spaces, float32 for boxes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gymnasium as gym
import torch
from torch import Tensor
from torch.nn import functional as F


class Distribution(NamedTuple):
    """A family of distributions over one action space.

    Attributes:
        num_outputs: width of the policy head (a Gaussian's log-std is a separate, state-independent parameter).
        action_shape: shape of one action; () for Discrete.
        num_log_std: length of that log-std vector, 0 for discrete families.
        sample: (params, generator) -> action.
        mode: params -> the most probable action.
        log_prob: (params, action) -> [...].
        entropy: params -> [...].
        fisher_root: params -> S ``[..., num_params, K]`` with S S^T the Fisher information of the params.
        kl: (params of p, params of q) -> KL(p || q), [...].
    """

    num_outputs: int
    action_shape: tuple[int, ...]
    num_log_std: int
    sample: Callable[[Tensor, torch.Generator | None], Tensor]
    mode: Callable[[Tensor], Tensor]
    log_prob: Callable[[Tensor, Tensor], Tensor]
    entropy: Callable[[Tensor], Tensor]
    fisher_root: Callable[[Tensor], Tensor]
    kl: Callable[[Tensor, Tensor], Tensor]


def distribution_for(space: gym.Space) -> Distribution:
    """The distribution for an action space.

    Raises:
        ValueError: the space is none of Discrete, MultiDiscrete, Box.
    """
    if isinstance(space, gym.spaces.Discrete):
        return _categorical(int(space.n))
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return _multi_categorical([int(n) for n in space.nvec])
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return _on_bounds(_diagonal_gaussian(space.shape[0]), *policy_range(space))
    raise ValueError(f"action space {space} is not supported; use Discrete, MultiDiscrete or a flat Box")


_NEVER = -1e9
"""The logit of an action that is not allowed: its probability is exactly 0, and nothing is infinite."""


def masked(params: Tensor, mask: Tensor) -> Tensor:
    """Logits ``[..., P]`` of discrete actions with those where ``mask [..., P]`` is 0 out of the question: all that is
    made of the result knows of the allowed ones only, and no gradient reaches the others."""
    return params.masked_fill(mask == 0, _NEVER)


def _sample_categorical(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    # Exponential race: argmax p / Exp(1) is distributed as p, and needs no check or sum as multinomial does.
    race = torch.empty_like(logits).exponential_(generator=generator)
    return (torch.softmax(logits, -1) / race).argmax(-1)


def _categorical_log_prob(logits: Tensor, action: Tensor) -> Tensor:
    return F.log_softmax(logits, -1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def _categorical_entropy(logits: Tensor) -> Tensor:
    log_p = F.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1)


def _categorical_fisher_root(logits: Tensor) -> Tensor:
    """diag(p) - p p^T = sum_k p_k (e_k - p)(e_k - p)^T."""
    p = torch.softmax(logits, -1)
    return (torch.eye(p.shape[-1], dtype=p.dtype, device=p.device) - p.unsqueeze(-1)) * p.sqrt().unsqueeze(-2)


def _categorical_kl(p: Tensor, q: Tensor) -> Tensor:
    log_p = F.log_softmax(p, -1)
    return (log_p.exp() * (log_p - F.log_softmax(q, -1))).sum(-1)


def _categorical(n: int) -> Distribution:
    return Distribution(
        n,
        (),
        0,
        _sample_categorical,
        lambda logits: logits.argmax(-1),
        _categorical_log_prob,
        _categorical_entropy,
        _categorical_fisher_root,
        _categorical_kl,
    )


def _multi_categorical(nvec: Sequence[int]) -> Distribution:
    def heads(params: Tensor) -> tuple[Tensor, ...]:
        return params.split(list(nvec), -1)

    def fisher_root(params: Tensor) -> Tensor:
        root, at = params.new_zeros(*params.shape, sum(nvec)), 0
        for n, logits in zip(nvec, heads(params), strict=True):
            root[..., at : at + n, at : at + n] = _categorical_fisher_root(logits)
            at += n
        return root

    return Distribution(
        sum(nvec),
        (len(nvec),),
        0,
        lambda params, generator: torch.stack([_sample_categorical(h, generator) for h in heads(params)], -1),
        lambda params: torch.stack([h.argmax(-1) for h in heads(params)], -1),
        lambda params, action: sum(  # type: ignore[arg-type,return-value]
            _categorical_log_prob(h, a) for h, a in zip(heads(params), action.unbind(-1), strict=True)
        ),
        lambda params: sum(_categorical_entropy(h) for h in heads(params)),  # type: ignore[arg-type,return-value]
        fisher_root,
        lambda p, q: sum(_categorical_kl(a, b) for a, b in zip(heads(p), heads(q), strict=True)),  # type: ignore[arg-type,return-value]
    )


_NEAR, _UNBOUNDED = 4.0, 1e6


def policy_range(space: gym.spaces.Box) -> tuple[Tensor, Tensor]:
    """(centre, half width) [d] of where a policy starts to explore, which draws about within -1..1 of its own unit.

    (0, 1) where that reaches the bounds (each between 1/4 and 4 away from 0 on its side, as in MuJoCo, whose published
    settings are for raw actions) and where a bound is missing; else the middle and the half width of the bounds.
    """
    low, high = (torch.as_tensor(bound, dtype=torch.float64, device="cpu") for bound in (space.low, space.high))
    near = (low >= -_NEAR) & (low <= -1 / _NEAR) & (high >= 1 / _NEAR) & (high <= _NEAR)
    raw = near | (torch.maximum(-low, high) >= _UNBOUNDED) | (low >= high)
    centre, half = torch.where(raw, 0.0, (low + high) / 2), torch.where(raw, 1.0, (high - low) / 2)
    return centre.float(), half.float()


def _on_bounds(unit: Distribution, centre: Tensor, half: Tensor) -> Distribution:
    """``unit`` with its actions stretched by ``half`` and moved to ``centre``.

    Densities and entropies stay those of ``unit``, so that an entropy coefficient means the same whatever the bounds.
    """
    if not centre.any() and bool((half == 1).all()):
        return unit

    def stretched(action: Tensor) -> Tensor:
        return centre.to(action.device) + half.to(action.device) * action

    def log_prob(params: Tensor, action: Tensor) -> Tensor:
        return unit.log_prob(params, (action - centre.to(action.device)) / half.to(action.device))

    return unit._replace(
        sample=lambda params, generator: stretched(unit.sample(params, generator)),
        mode=lambda params: stretched(unit.mode(params)),
        log_prob=log_prob,
    )


_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def _diagonal_gaussian(dim: int) -> Distribution:
    """Params are [mean, log_std], each ``dim`` wide. Actions are clipped by the environment, not squashed here."""

    def sample(params: Tensor, generator: torch.Generator | None) -> Tensor:
        mean, log_std = params.chunk(2, -1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + log_std.exp() * noise

    def log_prob(params: Tensor, action: Tensor) -> Tensor:
        mean, log_std = params.chunk(2, -1)
        return (-0.5 * ((action - mean) * (-log_std).exp()) ** 2 - log_std - _LOG_SQRT_2PI).sum(-1)

    def entropy(params: Tensor) -> Tensor:
        return (params.chunk(2, -1)[1] + 0.5 + _LOG_SQRT_2PI).sum(-1)

    def fisher_root(params: Tensor) -> Tensor:
        log_std = params.chunk(2, -1)[1]
        return torch.diag_embed(torch.cat([(-log_std).exp(), torch.full_like(log_std, math.sqrt(2.0))], -1))

    def kl(p: Tensor, q: Tensor) -> Tensor:
        (mean, log_std), (other, other_log_std) = p.chunk(2, -1), q.chunk(2, -1)
        spread = ((2 * log_std).exp() + (mean - other) ** 2) / (2 * (2 * other_log_std).exp())
        return (other_log_std - log_std + spread - 0.5).sum(-1)

    return Distribution(
        dim, (dim,), dim, sample, lambda params: params.chunk(2, -1)[0], log_prob, entropy, fisher_root, kl
    )
