"""PushSum (Kempe et al. 2003; SGP, arXiv 1811.10792) on flat vectors: pure algebra, no process and no lock.

A learner holds the pair (z, w): its parameters and its weight, 1 at the start. Its mass is the numerator w*z and the
weight w. A push moves the share p of both to a peer; since both shrink by the same factor, z does not change:

    sender:    w <- (1 - sum p) w                                message: (p w z, p w)
    receiver:  z <- (w z + numerator) / (w + weight),   w <- w + weight

Sums of both over learners and messages in flight never change, whatever the delays; so every z tends to the true mean.
"""

from __future__ import annotations

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


def absorb_(z: Tensor, w: float, message: Tensor, weight: float) -> float:
    """Add the mass (``message`` [d] = numerator, ``weight``) to (z, w); z changes in place, the new w is returned."""
    total = w + weight
    z.mul_(w / total).add_(message, alpha=1.0 / total)
    return total
