"""Statistics of the scores and curves of several trainings (after Agarwal et al. 2021, arXiv 2108.13264), in NumPy.

A *stratum* holds the scores of one task, one for each training. Intervals come from resampling the trainings of each
stratum; each function has its own seeded generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gala.experiments.statistics import Interval

Statistic = Callable[[Sequence[NDArray]], float]
Order = Literal["higher", "lower", "undecided"]
Shown = Literal["shown", "refuted", "undecided"]
REPEATS, LEVEL = 2000, 0.95
FEWEST = 5
"""Trainings of a group below which nothing is concluded: of three against three, all of one group lie above all of the
other in a tenth of cases without any difference, of five against five in 0.8 %."""


def pooled(statistic: Callable[[NDArray], float]) -> Statistic:
    """A statistic of all scores of all strata together, as the IQM is."""
    return lambda strata: statistic(np.concatenate([np.ravel(s) for s in strata]))


def bootstrap(
    groups: Sequence[Sequence[ArrayLike]],
    statistic: Callable[..., float],
    *,
    repeats: int = REPEATS,
    seed: int = 0,
) -> NDArray:
    """``statistic(*groups)`` of resampled groups, ``[repeats]``: the trainings of each stratum of each group are drawn
    with replacement, independently."""
    arrays = [[np.asarray(stratum, np.float64) for stratum in group] for group in groups]
    rng, draws = np.random.default_rng(seed), np.empty(repeats)
    for k in range(repeats):
        draws[k] = statistic(*([s[rng.integers(0, len(s), len(s))] for s in group] for group in arrays))
    return draws


def interval(
    groups: Sequence[Sequence[ArrayLike]],
    statistic: Callable[..., float],
    *,
    repeats: int = REPEATS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Percentile interval of ``statistic(*groups)``, widened around the estimate by sqrt(n / (n - 1)) of the smallest
    stratum: a bootstrap of n trainings has (n - 1) / n of the variance that it should have.

    With one training in a stratum it is unbounded. Where the statistic may be infinite, as a time that is never
    reached is, nothing is widened or interpolated.
    """
    arrays = [[np.asarray(stratum, np.float64) for stratum in group] for group in groups]
    estimate, smallest = float(statistic(*arrays)), min(len(s) for group in arrays for s in group)
    if smallest < 2:
        return Interval(-math.inf, estimate, math.inf)
    draws, ends = bootstrap(arrays, statistic, repeats=repeats, seed=seed), [(1 - level) / 2, (1 + level) / 2]
    if np.isfinite(draws).all() and math.isfinite(estimate):
        draws = estimate + (draws - estimate) * math.sqrt(smallest / (smallest - 1))
        low, high = np.quantile(draws, ends)
    else:
        low, high = np.quantile(draws, ends, method="inverted_cdf")
    return Interval(float(low), estimate, float(high))


def improvement(x: Sequence[NDArray], y: Sequence[NDArray]) -> float:
    """P(X > Y) + P(X = Y) / 2, the mean over tasks; the Mann-Whitney statistic of each."""
    each = []
    for a, b in zip(x, y, strict=True):
        difference = np.ravel(a)[:, None] - np.ravel(b)
        each.append(((difference > 0) + 0.5 * (difference == 0)).mean())
    return float(np.mean(each))


def improvement_interval(x: ArrayLike, y: ArrayLike, level: float = LEVEL) -> Interval:
    """``improvement`` of trainings of one task, with Newcombe's score interval (2006, Statistics in Medicine 25:559,
    method 5). A bootstrap of groups that do not overlap would have an interval of no width, however few they are."""
    a, b = (np.asarray(scores, np.float64) for scores in (x, y))
    estimate, z = improvement([a], [b]), NormalDist().inv_cdf((1 + level) / 2)
    p = np.linspace(0.0, 1.0, 20_001)
    pairs, others = len(a) * len(b), (len(a) + len(b)) / 2 - 1
    variance = p * (1 - p) * (1 + others * ((1 - p) / (2 - p) + p / (1 + p))) / pairs
    inside = p[np.abs(p - estimate) <= z * np.sqrt(variance) + 1e-9]
    return Interval(min(float(inside[0]), estimate), estimate, max(float(inside[-1]), estimate))


def area_under(x: ArrayLike, y: ArrayLike, until: float) -> float:
    """Mean height of the curve from 0 to ``until`` on the x-axis, by trapezoids.

    Before its first point the curve is as high as there; it ends at its last point, or at ``until``.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not len(x):
        return math.nan
    end = min(until, float(x[-1]))
    inside = x < end
    xs = np.concatenate([[0.0], x[inside], [end]])
    ys = np.concatenate([[y[0]], y[inside], [np.interp(end, x, y)]])
    return float(np.trapezoid(ys, xs) / end) if end > 0 else float(y[0])


def first_reached(x: ArrayLike, y: ArrayLike, threshold: float) -> float:
    """The first x at which y is at ``threshold`` or above; infinity if it never is."""
    reached = np.flatnonzero(np.asarray(y, np.float64) >= threshold)
    return float(np.asarray(x, np.float64)[reached[0]]) if len(reached) else math.inf


def on_grid(curves: Sequence[tuple[ArrayLike, ArrayLike]], points: int = 200) -> tuple[NDArray, NDArray]:
    """(x ``[points]``, y ``[curves, points]``) of curves over the x that they all have, linear between their points.

    Raises:
        ValueError: no such x.
    """
    arrays = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in curves]
    if not arrays or any(not len(x) for x, _ in arrays):
        raise ValueError("a curve has no points")
    low, high = max(x[0] for x, _ in arrays), min(x[-1] for x, _ in arrays)
    if low > high:
        raise ValueError("the curves have no part of the x-axis in common")
    grid = np.linspace(low, high, points)
    return grid, np.stack([np.interp(grid, x, y) for x, y in arrays])


def band(
    heights: NDArray, *, repeats: int = 500, level: float = LEVEL, seed: int = 0
) -> tuple[NDArray, NDArray, NDArray]:
    """(low, mean, high), each ``[points]``, of curves ``[curves, points]``: a pointwise bootstrap of whole curves,
    widened as in ``interval``."""
    n, middle = len(heights), heights.mean(0)
    if n < 2:
        return middle, middle, middle
    drawn = heights[np.random.default_rng(seed).integers(0, n, (repeats, n))].mean(1)
    drawn = middle + (drawn - middle) * math.sqrt(n / (n - 1))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, middle, high


def order(a: Interval, b: Interval) -> Order:
    """a against b: undecided wherever their intervals touch or overlap."""
    if a.low > b.high:
        return "higher"
    return "lower" if a.high < b.low else "undecided"


def non_inferior(difference: Interval, margin: float) -> Shown:
    """Whether a score is less than ``margin`` below another's, from the interval of the difference.

    shown: all of the interval lies above -margin. refuted: all of it lies below. The two-sided 95 % interval makes it
    a one-sided test at 2.5 %.
    """
    if difference.low > -margin:
        return "shown"
    return "refuted" if difference.high < -margin else "undecided"
