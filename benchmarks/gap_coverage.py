"""Do intervals of a train/test gap hold what they promise? Null calibration and power, on synthetic scores.

    python benchmarks/gap_coverage.py

Score(run, context) = run + context + interaction + noise (standard deviations 1, 1, 1/2, 1/2), no true gap: how often
does each nominal 95% interval hold 0? ``crossed`` (gala's) resamples runs and contexts; ``runs`` runs only, ``cells``
all cells as if they were independent, which is what is usually done. ``nested``: every run has training contexts of its
own. Power: how often the interval excludes 0 at a true gap of 2. One JSON line per design.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gala.bench.machine import machine_facts
from gala.experiments.statistics import Interval, gap_interval, nested_gap_interval

DESIGNS = ((5, 10, 100), (5, 100, 100), (10, 20, 100))
RESAMPLES = 400
Pair = tuple[NDArray, NDArray]


def scores(rng: np.random.Generator, runs: int, n: int, m: int, *, nested: bool = False, gap: float = 0.0) -> Pair:
    """Scores on n train and on m test contexts, ``[runs, n]`` and ``[runs, m]``."""
    run = rng.normal(0, 1, (runs, 1))
    parts = []
    for k, own in ((n, nested), (m, False)):
        context = rng.normal(0, 1, (runs if own else 1, k))
        parts.append(run + context + rng.normal(0, 0.5, (runs, k)) + rng.normal(0, 0.5, (runs, k)))
    return parts[0] + gap, parts[1]


def runs_only(train: NDArray, test: NDArray, seed: int) -> Interval:
    gaps = train.mean(1) - test.mean(1)
    draws = gaps[np.random.default_rng(seed).integers(0, len(gaps), (RESAMPLES, len(gaps)))].mean(1)
    return Interval(float(np.quantile(draws, 0.025)), float(gaps.mean()), float(np.quantile(draws, 0.975)))


def cells(train: NDArray, test: NDArray, seed: int) -> Interval:
    rng = np.random.default_rng(seed)
    a, b = train.ravel(), test.ravel()
    draws = np.array([rng.choice(a, a.size).mean() - rng.choice(b, b.size).mean() for _ in range(RESAMPLES)])
    return Interval(float(np.quantile(draws, 0.025)), float(a.mean() - b.mean()), float(np.quantile(draws, 0.975)))


METHODS = {
    "crossed": lambda a, b, seed: gap_interval(a, b, repeats=RESAMPLES, seed=seed),
    "runs": runs_only,
    "cells": cells,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gap_coverage.jsonl")
    options = parser.parse_args()
    rows = []
    for runs, n, m in DESIGNS:
        rng = np.random.default_rng((options.seed, runs, n, m))
        intervals: dict[str, list[Interval]] = {name: [] for name in (*METHODS, "nested", "power")}
        for k in range(options.repeats):
            pair = scores(rng, runs, n, m)
            for name, method in METHODS.items():
                intervals[name].append(method(*pair, k))
            own = scores(rng, runs, n, m, nested=True)
            intervals["nested"].append(nested_gap_interval(*own, repeats=RESAMPLES, seed=k))
            intervals["power"].append(gap_interval(*scores(rng, runs, n, m, gap=2.0), repeats=RESAMPLES, seed=k))
        power = [x.low > 0 for x in intervals.pop("power")]
        rows.append({"runs": runs, "train": n, "test": m, "repeats": options.repeats, "seed": options.seed})
        rows[-1] |= {
            "coverage": {name: float(np.mean([x.low <= 0 <= x.high for x in xs])) for name, xs in intervals.items()}
        }
        rows[-1] |= {
            "width": {name: round(float(np.mean([x.high - x.low for x in xs])), 3) for name, xs in intervals.items()}
        }
        rows[-1] |= {"power": float(np.mean(power))}
        print(json.dumps(rows[-1]))
    facts = {"benchmark": "gap_coverage", "machine": machine_facts()}
    options.out.write_text("".join(json.dumps(row | facts) + "\n" for row in rows))
    return int(not all(0.90 <= row["coverage"][name] <= 0.99 for row in rows for name in ("crossed", "nested")))


if __name__ == "__main__":
    raise SystemExit(main())
