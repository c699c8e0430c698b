"""Paired comparisons of rates that were measured in turn, on a machine whose speed wanders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES, CONFIDENCE = 10_000, 0.95
FEWEST_ROUNDS = 6
"""Without any difference n rounds all fall on one side of it in 2 of 2^n cases: of five they do in 6%."""


class Interval(NamedTuple):
    """A median and the percentile bootstrap interval around it."""

    median: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high


def median_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Median of ``values`` [rounds] with its 95% bootstrap interval (Efron 1979). With fewer than 6 values an interval
    of order statistics cannot reach 95%: there the range itself is given, which is wider than the bootstrap's."""
    x = np.asarray(values, np.float64)
    assert x.ndim == 1 and len(x)
    if len(x) < FEWEST_ROUNDS:
        return Interval(float(np.median(x)), float(x.min()), float(x.max()))
    rng = np.random.default_rng(seed)
    medians = np.median(x[rng.integers(len(x), size=(RESAMPLES, len(x)))], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(np.median(x)), float(low), float(high))


def paired_ratio(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """``a[i] / b[i]``, where round i measured both one after the other: what slows a whole round cancels."""
    assert len(a) == len(b)
    return median_interval(np.asarray(a) / np.asarray(b), seed)


def verdict(ratio: Interval, rounds: int) -> str:
    """faster, slower, or undecided where the interval holds 1, or is a range of too few ``rounds`` to say so."""
    if rounds < FEWEST_ROUNDS or not ratio.excludes(1.0):
        return "undecided"
    return "faster" if ratio.median > 1 else "slower"
