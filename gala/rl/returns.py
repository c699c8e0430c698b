"""Advantages and value targets. Pure functions; shapes are ``[T, B]``; ``_tm1``: a step's source, ``_t``: its end."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    r_t: Tensor, discount_t: Tensor, continue_t: Tensor, v_tm1: Tensor, v_t: Tensor, lambda_: float
) -> Tensor:
    """GAE (Schulman et al. 2016, arXiv 1506.02438, eq. 16); with ``lambda_`` = 1, n-step returns minus the baseline.

        delta_t = r_t + discount_t v_t - v_tm1
        A_t     = delta_t + continue_t discount_t lambda A_{t+1}

    Termination is a discount of 0. A time limit is not: there ``discount_t`` stays gamma and ``v_t`` is the value of
    the episode's true last observation, while ``continue_t`` = 0 keeps the next episode's advantages out.

    Args:
        r_t, discount_t, continue_t, v_tm1, v_t: float ``[T, B]``.
        lambda_: in [0, 1].

    Returns:
        Advantages ``[T, B]``; ``A + v_tm1`` is the value target. Nothing is differentiated through.
    """
    assert r_t.ndim == 2 and r_t.shape == discount_t.shape == continue_t.shape == v_tm1.shape == v_t.shape
    with torch.no_grad():
        delta_t = r_t + discount_t * v_t - v_tm1
        decay_t = lambda_ * continue_t * discount_t
        advantages = torch.empty_like(delta_t)
        running = torch.zeros_like(delta_t[0])
        for t in range(len(r_t) - 1, -1, -1):
            running = delta_t[t] + decay_t[t] * running
            advantages[t] = running
    return advantages


def explained_variance(target: Tensor, value: Tensor) -> Tensor:
    """1 - Var(target - value) / Var(target), over all entries; 0 where the targets do not vary."""
    spread = target.var()
    return torch.where(spread > 0, 1 - (target - value).var() / spread, torch.zeros_like(spread))
