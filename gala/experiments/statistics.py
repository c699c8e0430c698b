"""Statistics of a train/test gap, in NumPy; those that draw have a seeded generator of their own.

The usual intervals of the field resample training runs only, or pool all cells; for a gap between two sets of MDPs they
cover the truth in 30 to 77% of cases at a nominal 95%. Here the variance over runs, over training and over test
contexts is estimated part by part (``benchmarks/gap_coverage.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gala.evaluation.student import t_quantile

Rows = Sequence[ArrayLike] | NDArray
Verdict = Literal["OVERFIT", "NO-GAP", "INCONCLUSIVE"]
EXIT_CODES: dict[str, int] = {"NO-GAP": 0, "OVERFIT": 3, "INCONCLUSIVE": 4}
FEWEST_RUNS = 3


class Interval(NamedTuple):
    """A confidence interval with its point estimate."""

    low: float
    estimate: float
    high: float


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean of all scores pooled (Agarwal et al. 2021): int(n / 4) are cut from either end."""
    flat = np.sort(np.asarray(scores, np.float64), axis=None)
    cut = int(0.25 * len(flat))
    return float(flat[cut : len(flat) - cut].mean())


def optimality_gap(scores: ArrayLike, gamma: float = 1.0) -> float:
    """Mean shortfall below ``gamma``; what is above it counts for nothing."""
    return float(np.maximum(gamma - np.asarray(scores, np.float64), 0.0).mean())


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(X > Y) + P(X = Y) / 2 over all pairs: the Mann-Whitney statistic, scaled."""
    x, y = np.asarray(x, np.float64).ravel(), np.sort(np.asarray(y, np.float64), axis=None)
    below = y.searchsorted(x, "left") + y.searchsorted(x, "right")  # by sorting, as all pairs may not fit into memory
    return float(below.sum() / (2 * len(x) * len(y)))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> NDArray:
    """Share of scores above each threshold."""
    return (np.asarray(scores, np.float64).ravel()[:, None] > np.asarray(thresholds)).mean(0)


def cvar(scores: ArrayLike, worst: float = 0.1) -> float:
    """Mean of the worst tenth (at least one score)."""
    flat = np.sort(np.asarray(scores, np.float64), axis=None)
    return float(flat[: max(1, int(worst * len(flat)))].mean())


def wilson(successes: float, n: int, z: float = 1.959963984540054) -> Interval:
    """Wilson's score interval of a rate: it does not degenerate at 0 and 1, as a bootstrap does."""
    p = successes / n
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Interval(max(0.0, (middle - half) / (1 + z**2 / n)), p, min(1.0, (middle + half) / (1 + z**2 / n)))


class Component(NamedTuple):
    """A part of the variance of an estimate, with the degrees of freedom of its own estimate."""

    variance: float
    df: int
    own: float
    """What was seen, where more is taken from the other set or from the spread within runs."""


def gap_interval(train: Rows, test: Rows, *, nested: bool = False, level: float = 0.95) -> Interval:
    """Interval of mean(train) - mean(test), from the components of its variance.

    Args:
        train: for each training run its mean score on each training context: ``[runs, n]``, the same contexts for all
            runs; ``nested``: every run has contexts of its own.
        test: as ``train``, on the test contexts, which are the same for all runs: ``[runs, m]``.

    The half width is sqrt(sum_k t_k^2 v_k) over ``gap_components``, t_k the quantile of Student's t with the degrees
    of freedom of v_k (Graybill and Wang 1980's modified large samples, with t for chi-square): few runs widen what
    runs contribute, and not what 200 test contexts do. ``benchmarks/gap_coverage.py`` measures what it holds.

    Raises:
        ValueError: fewer than 3 runs, or runs with different contexts.
    """
    _check_runs(len(train), len(test), len(np.asarray(test[0])))
    estimate = float(np.mean([_mean(row) for row in train]) - np.mean([_mean(row) for row in test]))
    return _widened(estimate, gap_components(train, test, nested=nested), level)


def gap_components(train: Rows, test: Rows, *, nested: bool = False) -> list[Component]:
    """What the variance of a mean gap comes from: runs, training contexts (unless ``nested``), test contexts.

    Runs: the variance of the runs' gaps over R, at least that which the spread of scores within runs alone would
    make. Contexts: the variance of their means, less what interactions with runs put there. The set with fewer
    contexts takes at least the variance of the other's: ten training MDPs that are all solved, where 97% of the others
    are, have a variance of 0 and yet say little.
    """
    b = _Table.of(test)
    runs, m = b.scores.shape
    if nested:
        rows = [np.asarray(row, np.float64) for row in train]
        n = min(map(len, rows))
        within = float(np.mean([row.var(ddof=1) for row in rows])) if n > 1 else 0.0
        gaps = np.array([row.mean() for row in rows]) - b.scores.mean(1)
        floor, others = b.within / n + b.interaction / m, (within - b.interaction) if runs * n > m else 0.0
        return [_runs(gaps, floor, m - 1), _contexts(b.context, m, others, runs * n)]
    a = _Table.of(train)
    n = a.scores.shape[1]
    small, large = (a, b) if n <= m else (b, a)
    interaction = {id(small): max(small.interaction, large.interaction), id(large): large.interaction}
    floor = interaction[id(a)] / n + interaction[id(b)] / m
    parts = [_runs(a.scores.mean(1) - b.scores.mean(1), floor, (runs - 1) * (max(n, m) - 1))]
    parts.append(_contexts(a.context, n, b.context if small is a else 0.0, m))
    return [*parts, _contexts(b.context, m, a.context if small is b else 0.0, n)]


def mean_interval(
    scores: Rows, *, nested: bool = False, level: float = 0.95, more: Sequence[Component] = ()
) -> Interval:
    """Interval of a mean score over runs and contexts; ``nested``: the contexts are each run's own; ``more``: what else
    adds to its variance. See ``gap_interval``; the spread of one run alone is that of its contexts."""
    rows = [np.asarray(row, np.float64) for row in scores]
    means = np.array([row.mean() for row in rows])
    parts = [] if len(rows) < 2 else [_runs(means, 0.0, 1)]
    if not nested or len(rows) < 2:
        table = _Table.of(rows)
        parts.append(_contexts(table.context, table.scores.shape[1], 0.0, 0))
    return _widened(float(means.mean()), [*parts, *more], level)


class _Table(NamedTuple):
    """Scores ``[runs, contexts]`` and the mean squares of their two-way analysis of variance."""

    scores: NDArray
    context: float
    """Variance of the contexts' effects."""
    interaction: float
    within: float
    """Variance of the scores of one run."""

    @classmethod
    def of(cls, rows: Rows) -> _Table:
        x = np.stack([np.asarray(row, np.float64) for row in rows])
        runs, k = x.shape
        if k < 2:
            return cls(x, 0.0, 0.0, 0.0)
        rest = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
        interaction = float((rest**2).sum()) / ((runs - 1) * (k - 1)) if runs > 1 else 0.0
        context = max(0.0, float(x.mean(0).var(ddof=1)) - interaction / runs)
        return cls(x, context, interaction, float(x.var(1, ddof=1).mean()))


def _runs(gaps: NDArray, floor: float, floor_df: int) -> Component:
    own = float(gaps.var(ddof=1))
    if own >= floor:
        return Component(own / len(gaps), len(gaps) - 1, own / len(gaps))
    return Component(floor / len(gaps), max(floor_df, 1), own / len(gaps))


def _contexts(own: float, k: int, others: float, others_k: int) -> Component:
    used, df = (own, k - 1) if own >= others else (others, others_k - 1)
    return Component(used / k, max(df, 1), own / k)


def _mean(row: ArrayLike) -> float:
    return float(np.asarray(row, np.float64).mean())


def _widened(estimate: float, parts: Sequence[Component], level: float) -> Interval:
    half = math.sqrt(sum(t_quantile(level, part.df) ** 2 * part.variance for part in parts))
    return Interval(estimate - half, estimate, estimate + half)


def verdict(interval: Interval, delta: float) -> Verdict:
    """NO-GAP: the interval lies within +-delta (equivalence, not merely 'no difference was found'). OVERFIT: it lies
    above 0, and not within +-delta. INCONCLUSIVE: anything else."""
    if -delta <= interval.low and interval.high <= delta:
        return "NO-GAP"
    return "OVERFIT" if interval.low > 0 else "INCONCLUSIVE"


def page_trend_test(scores: ArrayLike, *, permutations: int = 9999, seed: int = 0) -> float:
    """Page's test that scores ``[runs, treatments]`` fall from left to right: p-value by permutation within runs.

    Equal scores share the mean of their ranks: ranked in order of appearance, scores without a trend would have one.
    """
    scores = np.asarray(scores, np.float64)
    above, equal = (compare(scores[:, None, :], scores[:, :, None]).sum(2) for compare in (np.greater, np.equal))
    ranks = above + (equal + 1) / 2
    weights, rng = np.arange(1, scores.shape[1] + 1), np.random.default_rng(seed)
    observed = float((ranks * weights).sum())
    shuffled = rng.permuted(np.tile(ranks, (permutations, 1, 1)), axis=2)
    return float((1 + ((shuffled * weights).sum((1, 2)) >= observed - 1e-9).sum()) / (1 + permutations))


class PowerLaw(NamedTuple):
    """gap(N) = a N^-b + c."""

    a: float
    b: float
    c: float

    def __call__(self, n: ArrayLike) -> NDArray:
        return self.a * np.asarray(n, np.float64) ** -self.b + self.c

    def reaches(self, gap: float) -> float:
        """The N from which the gap is below ``gap``; 0 if it is so everywhere, infinity if the fit never gets there."""
        if self.a <= 0 < self.b and self.c < gap:  # it does not fall, and what it rises to is below
            return 0.0
        if self.a <= 0 or self.b <= 0 or gap <= self.c:
            return math.inf
        return float((self.a / (gap - self.c)) ** (1 / self.b))


def fit_power_law(n: ArrayLike, gaps: ArrayLike) -> PowerLaw:
    """Least squares over (a, c), c at least 0, for each exponent b of a grid from 0.02 to 3.

    Raises:
        ValueError: fewer than three different N.
    """
    n, gaps = np.asarray(n, np.float64), np.asarray(gaps, np.float64)
    if len(np.unique(n)) < 3:
        raise ValueError("a power law needs gaps at three or more numbers of training MDPs")
    best, error = PowerLaw(0.0, 1.0, float(gaps.mean())), math.inf
    for b in np.linspace(0.02, 3.0, 299):
        design = np.stack([n**-b, np.ones_like(n)], 1)
        (a, c), *_ = np.linalg.lstsq(design, gaps, rcond=None)
        if c < 0:
            a, c = float(n**-b @ gaps / (n**-b @ n**-b)), 0.0
        loss = float(((design @ [a, c] - gaps) ** 2).sum())
        if loss < error:
            best, error = PowerLaw(float(a), float(b), float(c)), loss
    return best


def _check_runs(train: int, test: int, tests: int) -> None:
    if train != test:
        raise ValueError(f"{train} runs were scored on train contexts and {test} on test contexts")
    if tests < 2:
        raise ValueError(f"{tests} test MDP: its score may be luck; a gap needs at least 2, and 50 are few")
    if train < FEWEST_RUNS:
        raise ValueError(f"{train} training runs: a verdict needs at least {FEWEST_RUNS}, each trained anew")
