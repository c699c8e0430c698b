"""When an interval of a gap does not hold exactly what it promises, as far as that was measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gala.experiments.statistics import Rows, gap_components

FEW_RUNS, FEW_TEST, FEW_TRAIN, NEAR_CEILING, SKEWED = 5, 50, 100, 0.9, 1.5


def warnings_for(train: Rows, test: Rows, *, nested: bool = False) -> list[str]:
    """What makes the interval less sure than it looks, as far as ``benchmarks/gap_coverage.py`` has seen it."""
    runs, contexts, warnings = len(train), len(np.asarray(test[0])), []
    if runs < FEW_RUNS:
        warnings.append(
            f"{runs} training runs: with fewer than {FEW_RUNS} the interval is wide, and has lain above the gap in 5%"
        )
    if contexts < FEW_TEST:
        warnings.append(f"{contexts} test MDPs: with fewer than {FEW_TEST} the test score depends on their luck")
    flat = np.concatenate([np.asarray(row, np.float64) for row in test])
    if max(np.mean(flat == flat.min()), np.mean(flat == flat.max())) >= NEAR_CEILING and np.ptp(flat):
        warnings.append(
            "9 of 10 test scores are the same: scores so near their bound are skewed, and where runs differ in their "
            "gap its 95% interval has held it in 86% of samples"
        )
    table = np.stack([np.asarray(row, np.float64) for row in test])
    seen = runs * len(np.asarray(train[0])) if nested else len(np.asarray(train[0]))
    if abs(skewness(table.mean(0))) >= SKEWED and seen < FEW_TRAIN:
        warnings.append(
            f"the test scores are very skewed, and {seen} training MDPs say little of such: the interval is wider than "
            "95% needs, and has held the gap in up to 100% of samples"
        )
    parts = gap_components(train, test, nested=nested)
    if sum(part.own for part in parts) < sum(part.variance for part in parts) / 2:
        warnings.append(
            "one set's scores spread far less than the other's: the interval allows them as much, and may be wider "
            "than need be"
        )
    return warnings


def skewness(x: NDArray) -> float:
    """The third standardised moment; 0 where nothing varies."""
    deviations = x - x.mean()
    spread = float(np.sqrt((deviations**2).mean()))
    return float((deviations**3).mean()) / spread**3 if spread > 0 else 0.0
