"""What gossip did: how far learners are apart, a bound on that which the run itself certifies, message ages."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple

import torch
from torch import Tensor


def consensus_distance(learners: Tensor) -> float:
    """||X - mean(X)||_F of the stacked parameters X [n, d], in float64."""
    x = learners.to(torch.float64)
    return float(torch.linalg.norm(x - x.mean(dim=0)))


EventKind = Literal["update", "put", "take", "take-back", "mark"]


class MixEvent(NamedTuple):
    """One line of a learner's log, from which ``EpsilonBall`` rebuilds what the network did."""

    kind: EventKind
    rank: int
    peer: int
    """put: the destination, take-back: of the put that it did not read; take: the source; otherwise the rank itself."""
    amount: float
    """update: norm of the parameter change; put: weight sent; take: the rank's own weight before it absorbed."""
    version: int
    """The sender's update count at this put; take: at the newest put in the message; update: the rank's own; mark: the
    number under which the parameters of this moment were published."""
    puts: int
    """take: how many puts the message summed; otherwise 1."""
    time_ns: int
    """``time.monotonic_ns`` before a put and after a take, so that sorting puts causes before effects."""
    norm: float = 0.0
    """put, take: 2-norm of the rank's parameters before it; what rounding is bounded by."""
    unit: float = 0.0
    """take: unit roundoff of the arithmetic and of the message, whichever is coarser."""


class AgeHistogram:
    """Message ages, in the sender's updates, in bins 0, 1, 2-3, 4-7, 8-15, ..."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, age: int) -> None:
        self._bins[age.bit_length()] += 1

    def __add__(self, other: AgeHistogram) -> AgeHistogram:
        total = AgeHistogram()
        total._bins = self._bins + other._bins
        return total

    def counts(self) -> dict[str, int]:
        """Label -> number of messages, youngest first."""
        labels = {b: f"{2 ** (b - 1)}-{2**b - 1}" if b > 1 else str(b) for b in sorted(self._bins)}
        return {labels[b]: self._bins[b] for b in labels}
