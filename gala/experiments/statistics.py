"""Statistics of a train/test gap, in NumPy, each with its own seeded generator; the global one is never touched.

The usual intervals of the field resample training runs only, or pool all cells; for a gap between two sets of MDPs they
cover the truth in 30 to 77% of cases at a nominal 95% (``benchmarks/gap_coverage.py``). Here runs and contexts are
resampled, crossed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = Sequence[ArrayLike] | NDArray
Verdict = Literal["OVERFIT", "NO-GAP", "INCONCLUSIVE"]
EXIT_CODES: dict[str, int] = {"NO-GAP": 0, "OVERFIT": 3, "INCONCLUSIVE": 4}
FEWEST_RUNS, FEW_RUNS, FEW_TEST, FEW_TRAIN = 3, 5, 50, 10


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
    difference = np.asarray(x, np.float64).ravel()[:, None] - np.asarray(y, np.float64).ravel()
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


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


def gap_interval(
    train: Sequence[ArrayLike] | NDArray,
    test: Sequence[ArrayLike] | NDArray,
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of mean(train) - mean(test) by a bootstrap of runs crossed with contexts.

    Args:
        train: for each training run its mean score on each training context, the same contexts for all: ``[runs, n]``.
        test: as ``train``, on the test contexts: ``[runs, m]``.

    Runs are resampled jointly for train and test, and the contexts of either set once for all runs.

    Raises:
        ValueError: fewer than 3 runs, or runs with different contexts.
    """
    a, b = (np.stack([np.asarray(row, np.float64) for row in rows]) for rows in (train, test))
    _check_runs(len(a), len(b))
    rng = np.random.default_rng(seed)
    gaps = np.empty(repeats)
    for k in range(repeats):
        runs = _counts(rng, len(a))
        gaps[k] = runs @ (a @ _counts(rng, a.shape[1]) - b @ _counts(rng, b.shape[1]))
    return _percentiles(gaps, float(a.mean() - b.mean()), level)


def nested_gap_interval(
    train: Sequence[ArrayLike] | NDArray,
    test: Sequence[ArrayLike] | NDArray,
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """As ``gap_interval``, where every run has training contexts of its own.

    Resampling runs then resamples their training contexts too; drawing these again within a run would count their
    spread twice (coverage 100% at nominal 95%, measured). The percentiles are widened by sqrt(R / (R - 1)), by which a
    bootstrap of R runs is too narrow.
    """
    a = np.array([np.asarray(row, np.float64).mean() for row in train])
    b = np.stack([np.asarray(row, np.float64) for row in test])
    _check_runs(len(a), len(b))
    rng, gaps, estimate = np.random.default_rng(seed), np.empty(repeats), float(a.mean() - b.mean())
    for k in range(repeats):
        gaps[k] = _counts(rng, len(a)) @ (a - b @ _counts(rng, b.shape[1]))
    return _percentiles(estimate + (gaps - estimate) * math.sqrt(len(a) / (len(a) - 1)), estimate, level)


def mean_interval(
    scores: Sequence[ArrayLike], *, nested: bool = False, repeats: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of a mean score over runs and contexts; ``nested``: the contexts are each run's own.

    Widened by sqrt(R / (R - 1)), as ``nested_gap_interval`` is and for the same reason.
    """
    rows = [np.asarray(row, np.float64) for row in scores]
    rng, means = np.random.default_rng(seed), np.empty(repeats)
    stacked = None if nested else np.stack(rows)
    for k in range(repeats):
        runs = _counts(rng, len(rows))
        if stacked is None:
            means[k] = runs @ np.array([row.mean() for row in rows])
        else:
            means[k] = runs @ (stacked @ _counts(rng, stacked.shape[1]))
    estimate, widen = float(np.mean([row.mean() for row in rows])), math.sqrt(len(rows) / max(len(rows) - 1, 1))
    return _percentiles(estimate + (means - estimate) * widen, estimate, level)


def verdict(interval: Interval, delta: float) -> Verdict:
    """NO-GAP: the interval lies within +-delta (equivalence, not merely 'no difference was found'). OVERFIT: it lies
    above 0, and not within +-delta. INCONCLUSIVE: anything else."""
    if -delta <= interval.low and interval.high <= delta:
        return "NO-GAP"
    return "OVERFIT" if interval.low > 0 else "INCONCLUSIVE"


def warnings_for(runs: int, test_contexts: int, shared_train_contexts: int | None = None) -> list[str]:
    """What makes the interval less sure than it looks. ``shared_train_contexts``: None if each run has its own."""
    warnings = []
    if runs < FEW_RUNS:
        warnings.append(f"{runs} training runs: with fewer than {FEW_RUNS} the interval may be too narrow")
    if test_contexts < FEW_TEST:
        warnings.append(f"{test_contexts} test MDPs: with fewer than {FEW_TEST} the test score depends on their luck")
    if shared_train_contexts is not None and shared_train_contexts < FEW_TRAIN:
        # Measured without a true gap, 5 runs: 1, 2 and 5 shared training contexts cover it in 35, 76 and 88%.
        warnings.append(
            f"{shared_train_contexts} training MDPs, the same for all runs: with fewer than {FEW_TRAIN} the interval "
            "is too narrow; give each run a training set of its own"
        )
    return warnings


def label_permutation_test(train: ArrayLike, test: ArrayLike, *, permutations: int = 999, seed: int = 0) -> float:
    """One-sided p-value of mean(train) > mean(test) over contexts, whose labels are shuffled."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (train, test))
    both, rng = np.concatenate([a, b]), np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(len(both)), (permutations, 1)), axis=1)
    shuffled = both[order[:, : len(a)]].mean(1) - both[order[:, len(a) :]].mean(1)
    observed = a.mean() - b.mean()
    return float((1 + (shuffled >= observed - 1e-12).sum()) / (1 + permutations))


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
        """The N from which the gap is below ``gap``; infinity if the fit never gets there."""
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


def _check_runs(train: int, test: int) -> None:
    if train != test:
        raise ValueError(f"{train} runs were scored on train contexts and {test} on test contexts")
    if train < FEWEST_RUNS:
        raise ValueError(f"{train} training runs: a verdict needs at least {FEWEST_RUNS}, each trained anew")


def _counts(rng: np.random.Generator, n: int) -> NDArray:
    """How often each of n is drawn in n draws with replacement, as weights that sum to 1."""
    return np.bincount(rng.integers(0, n, n), minlength=n) / n


def _percentiles(draws: NDArray, estimate: float, level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), estimate, float(high))
