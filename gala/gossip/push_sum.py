"""PushSum (Kempe et al. 2003; SGP, arXiv 1811.10792) on flat vectors: pure algebra, no process and no lock.

A learner holds the pair (z, w): its parameters and its weight, 1 at the start. Its mass is the numerator w*z and the
weight w. A push moves the share p of both to a peer; since both shrink by the same factor, z does not change:

    sender:    w <- (1 - sum p) w                                message: (p w z, p w)
    receiver:  z <- (w z + numerator) / (w + weight),   w <- w + weight

Sums of both over learners and messages in flight never change, whatever the delays; so every z tends to the true mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def sent_weights(w: float, shares: Sequence[float], w_min: float) -> list[float]:
    """The weight to push to each peer: w * share, less where that would leave under ``w_min``.

    If every learner always sent, unequal speeds would drive the fast learners' weights to 0. So at least ``w_min``
    stays: pushes shrink together to what is above it, and stop altogether (all zeros) while that is under half of
    the plan, since a message costs the same however little it carries. Scaling, and not only stopping, is what lets
    graphs of high degree mix: a complete graph of 32 plans to keep 1/32, and would otherwise never send at all.
    ``w_min = 0`` sends as planned.
    """
    planned = [w * share for share in shares]
    total = sum(planned)
    room = w - w_min
    if total <= room or total == 0.0:
        return planned
    if room < total / 2:
        return [0.0] * len(planned)
    return [weight * (room / total) for weight in planned]


def numerator(z: Tensor, weight: float, out: Tensor) -> Tensor:
    """weight * z, written into ``out`` (both [d]) and returned: what travels in a message of that weight."""
    return torch.mul(z, weight, out=out)


def absorb_(z: Tensor, w: float, message: Tensor, weight: float, factor: float = 1.0) -> float:
    """Add the mass ``factor`` * (``message`` [d] = numerator, ``weight``) to (z, w); z changes in place, the new w is
    returned. Rounding that a codec has left behind comes without weight."""
    total = w + factor * weight
    if total > 0.0:
        z.mul_(w / total).add_(message, alpha=factor / total)
    return total


UNIT_BITS = 32
"""Weights of unit u count 2 ** (-32 u) of those of unit 0."""


def in_unit(weight: float, unit: int, other: int) -> float:
    """``weight``, counted in ``unit``, as it counts in unit ``other``: exact, but for what is too small for a float.

    PushSum knows no scale: only ratios of weights matter. Deaths take weight along for ever, so it shrinks without
    end, and numbers near 1 need a unit that shrinks along. A learner takes the next one when the mean weight falls
    under 2 ** -32, and the others follow when they see it; a factor of two rounds nothing.
    """
    return math.ldexp(weight, UNIT_BITS * (other - unit))
