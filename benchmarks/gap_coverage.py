"""Do intervals of a train/test gap hold what they promise? Coverage and false alarms on synthetic scores.

    python benchmarks/gap_coverage.py

Scores of R runs on n training and on 200 test MDPs, which all runs share (crossed) or of which the training MDPs are
each run's own (nested). A run has an effect on all of its scores (sd 1) and one on its training scores alone, its own
gap (sd ``gap_sd``); every MDP has an effect and every cell noise. Scores are Gaussian, lognormal, rare (one MDP in 20
is worth 5 more) or binary with a mean of .5 or .97, where all effects are on the log odds (runs: sd .3); the true gap
is then the mean over them.

Coverage: how often the 95% interval holds the true gap. False OVERFIT: how often it lies above 0 and above the truth.
``gala``: this repository's. ``rliable``: the stratified bootstrap of Agarwal et al. 2021 (arXiv 2108.13264), which
draws runs anew for each task, here each MDP. ``runs_alone``: a bootstrap of runs. ``warned``: how often the program
warns (few runs, scores near their bound, skewed or of unequal spread); ``refused``: one training MDP for all runs gets
no verdict.

``--rewarn`` counts the warnings anew, on the same samples, and leaves all else.

One JSON line per design in results/gap_coverage.jsonl, each written when it is done; those that are there are kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gala.bench.machine import machine_facts
from gala.experiments.gap_warnings import warnings_for
from gala.experiments.statistics import gap_interval
from gala.files.whole import write_atomically

DESIGNS, RUNS, TRAIN, TEST = ("crossed", "nested"), (3, 5, 10), (1, 10, 100), 200
GAP_SDS, SCORES = (0.0, 0.3, 1.0), ("gaussian", "lognormal", "rare", "binary .5", "binary .97")
CELL = ("design", "runs", "train", "gap_sd", "scores")
RESAMPLES, RUN_LOGIT_SD = 200, 0.3
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
Pair = tuple[NDArray, NDArray]


def samples(cell: dict[str, Any], rng: np.random.Generator) -> Iterator[tuple[NDArray, NDArray, float]]:
    """Train scores [runs, n], test scores [runs, 200] and the true gap, for ever."""
    runs, n, kind = cell["runs"], cell["train"], cell["scores"]
    own = runs if cell["design"] == "nested" else 1
    binary = kind.startswith("binary")
    offset, truth = logit_and_gap(float(kind.split()[1]), cell["gap_sd"]) if binary else (0.0, 0.0)
    while True:
        run = rng.normal(0, RUN_LOGIT_SD if binary else 1, (runs, 1))
        gap = rng.normal(0, cell["gap_sd"], (runs, 1))
        train, test = (context_scores(kind, rng, rows, runs, k) for rows, k in ((own, n), (1, TEST)))
        train, test = train + run + gap, test + run
        if binary:
            train, test = ((rng.random(x.shape) < logistic(offset + x)).astype(float) for x in (train, test))
        yield train, test, truth


def context_scores(kind: str, rng: np.random.Generator, rows: int, runs: int, k: int) -> NDArray:
    """The effects of k MDPs, [rows, k], and of cells, [runs, k], added."""
    noise = rng.normal(0, 1, (runs, k))
    if kind == "gaussian":
        return rng.normal(0, 1, (rows, k)) + 0.7 * noise
    if kind == "lognormal":
        return np.exp(rng.normal(0, 1, (rows, k))) + 0.35 * noise
    if kind == "rare":
        return 5.0 * (rng.random((rows, k)) < 0.05) + 0.35 * noise
    return rng.normal(0, 1, (rows, k)) + np.zeros((runs, 1))


def logistic(x: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-x))


def logit_and_gap(test_mean: float, gap_sd: float) -> tuple[float, float]:
    """The log odds at which test scores have this mean, and the true gap, by Gauss-Hermite quadrature."""

    def mean(offset: float, sd: float) -> float:
        return float(_WEIGHTS @ logistic(offset + sd * _NODES) / _WEIGHTS.sum())

    sd, low, high = math.hypot(1, RUN_LOGIT_SD), -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle, sd) < test_mean else (low, middle)
    return low, mean(low, math.hypot(sd, gap_sd)) - test_mean


def rliable(train: NDArray, test: NDArray, rng: np.random.Generator) -> tuple[float, float]:
    """Percentiles of the difference of means, with runs drawn anew for each MDP of either set."""
    return _percentiles(sum(sign * _stratified(x, rng) for sign, x in ((1, train), (-1, test))))


def _stratified(x: NDArray, rng: np.random.Generator) -> Any:
    drawn = rng.integers(0, len(x), (RESAMPLES, *x.shape), np.uint8)
    return x.astype(np.float32)[drawn, np.arange(x.shape[1])].mean((1, 2))


def runs_alone(train: NDArray, test: NDArray, rng: np.random.Generator) -> tuple[float, float]:
    gaps = train.mean(1) - test.mean(1)
    return _percentiles(gaps[rng.integers(0, len(gaps), (RESAMPLES, len(gaps)))].mean(1))


def _percentiles(draws: Any) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def measure(cell: dict[str, Any], repeats: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, *json.dumps(cell).encode()])
    other, nested = np.random.default_rng(seed), cell["design"] == "nested"
    ends: dict[str, list[tuple[float, float]]] = {"gala": [], "rliable": [], "runs_alone": []}
    warned, truth = 0, 0.0
    for train, test, truth in itertools.islice(samples(cell, rng), repeats):  # noqa: B007
        low, _, high = gap_interval(train, test, nested=nested)
        ends["gala"].append((low, high))
        ends["rliable"].append(rliable(train, test, other))
        ends["runs_alone"].append(runs_alone(train, test, other))
        warned += bool(warnings_for(train, test, nested=nested))
    row: dict[str, Any] = {**cell, "test": TEST, "samples": repeats, "seed": seed, "true_gap": round(truth, 4)}
    for name, pairs in ends.items():
        low, high = np.array(pairs).T
        row[name] = {
            "coverage": round(float(((low <= truth) & (truth <= high)).mean()), 3),
            "false_overfit": round(float((low > max(truth, 0.0)).mean()), 3),
            "width": round(float((high - low).mean()), 3),
        }
    return row | {"warned": warned / repeats, "refused": cell["train"] == 1 and not nested}


def share_warned(cell: dict[str, Any], repeats: int, seed: int) -> float:
    drawn = samples(cell, np.random.default_rng([seed, *json.dumps(cell).encode()]))
    nested = cell["design"] == "nested"
    return sum(bool(warnings_for(a, b, nested=nested)) for a, b, _ in itertools.islice(drawn, repeats)) / repeats


def promise(row: dict[str, Any]) -> str:
    """kept; refused or warned of (in at least 9 of 10 samples); or broken."""
    found, least = row["gala"], 0.90 if row["runs"] == 3 else 0.92
    if row["refused"]:
        return "refused"
    if least <= found["coverage"] <= 0.99 and found["false_overfit"] <= 0.04:
        return "kept"
    return "warned" if row["warned"] >= 0.9 else "broken"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rewarn", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gap_coverage.jsonl")
    options = parser.parse_args()
    text = options.out.read_text() if options.out.is_file() else ""
    rows = [json.loads(line) for line in text.splitlines()]
    if options.rewarn:
        for row in rows:
            row["warned"] = share_warned({name: row[name] for name in CELL}, row["samples"], row["seed"])
        write_atomically(options.out, "".join(json.dumps(row) + "\n" for row in rows).encode())
    facts = {"benchmark": "gap_coverage", "machine": machine_facts()}
    known = {tuple(row[name] for name in (*CELL, "samples", "seed")): row for row in rows}
    with options.out.open("a") as file:
        for values in itertools.product(DESIGNS, RUNS, TRAIN, GAP_SDS, SCORES):
            if (*values, options.samples, options.seed) not in known:
                row = measure(dict(zip(CELL, values, strict=True)), options.samples, options.seed)
                known[*values, options.samples, options.seed] = row
                file.write(json.dumps(row | facts) + "\n")
                file.flush()
    mine = [row for row in known.values() if (row["samples"], row["seed"]) == (options.samples, options.seed)]
    print("\n".join(table(mine)))
    return int(any(promise(row) == "broken" for row in mine))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each (design, runs, n, gap_sd): coverage/false OVERFIT in %, gala's and below it rliable's."""
    marks = {"kept": " ", "refused": "r", "warned": "w", "broken": "!"}
    lines = ["design   R   n  gap sd  " + "".join(f"{name:>12}" for name in SCORES)]
    for _, cells in itertools.groupby(rows, key=lambda row: [row[name] for name in CELL[:-1]]):
        group = list(cells)
        head = "{design:<7} {runs:>2} {train:>3}  {gap_sd:<6}".format(**group[0])
        for method in ("gala", "rliable"):
            line = f"{head if method == 'gala' else '  rliable':<22}"
            for row in group:
                found = row[method]
                mark = marks[promise(row)] if method == "gala" else " "
                line += f"{100 * found['coverage']:>7.1f}/{100 * found['false_overfit']:<3.0f}{mark}"
            lines.append(line)
    counts = Counter(promise(row) for row in rows)
    return [*lines, ", ".join(f"{count} {name}" for name, count in counts.items())]


if __name__ == "__main__":
    raise SystemExit(main())
