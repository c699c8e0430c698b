"""Sharpness, gradient noise and generalisation gap of A2C, GALA, SlowMo on GALA, all-reduce and no exchange.

    python benchmarks/overfit_protocols.py --studies STUDIES     trains and judges: its studies maze-*
    python benchmarks/sharpness_and_gaps.py --studies STUDIES    ten minutes on one core; runs that are there are kept

Equal simulators, env_steps and updates. Each run's last checkpoint, for several learners their consensus, is judged on
new rollouts of its training mazes: the top eigenvalue of the Hessian of the total loss, that of the policy's Fisher
matrix, the trace, and the noise scale in simulators. One line per run, with its gap; one per finding: each algorithm
against A2C (Welch's interval; ratios of geometric means), and the rank correlation of each measure with the gap over
all runs, with its bootstrap interval.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kept_rows import KeptRows
from overfit_protocols import STUDIES, gaps, more, returns
from scipy import stats
from studies import Results, done

from gala.files.plain_yaml import read_json

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "sharpness_and_gaps.jsonl"
ALGORITHMS = ("a2c", "gala", "slowmo", "allreduce", "independent")
SIZES = (10, 100)
MEASURES = ("sharpness", "trace", "fisher", "noise_scale")
DRAWS = 2000


def diagnose(run: Path) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        words = ["diagnose", str(run), "curvature=true", "noise=true", f"out={folder}/found", "trust=true"]
        subprocess.run([sys.executable, "-m", "gala", *words], check=True, stdout=subprocess.DEVNULL)
        found = read_json(Path(folder) / "found" / "diagnose.json")
    points = found["curvature"]["points"]["consensus"]
    noise_scale = found["noise"]["noise_scale"]
    return {
        "sharpness": points["total loss"],
        "fisher": points["policy Fisher"],
        "trace": found["curvature"]["trace"]["mean"],
        "noise_scale": noise_scale if noise_scale is not None and math.isfinite(noise_scale) else None,
    }


def of(rows: Sequence[Row], algorithm: str, n: int, key: str) -> np.ndarray:
    chosen = sorted((r for r in rows if (r["algorithm"], r["n"]) == (algorithm, n)), key=lambda r: r["run"])
    return np.array([r[key] for r in chosen if r[key] is not None], float)


def against_a2c(rows: Sequence[Row]) -> Iterator[Row]:
    for n in SIZES:
        for algorithm in ALGORITHMS[1:]:
            for key in ("gap", "train_return", *MEASURES):
                ours, theirs = of(rows, algorithm, n, key), of(rows, "a2c", n, key)
                if min(len(ours), len(theirs)) < 3:
                    continue
                if key in MEASURES and min(ours.min(), theirs.min()) > 0:
                    low, mid, high = np.exp(more(np.log(ours), np.log(theirs)))
                    found = {"ratio": mid, "interval": [low, high], "differs": not low <= 1 <= high}
                else:
                    low, mid, high = more(ours, theirs)
                    found = {"difference": mid, "interval": [low, high], "differs": not low <= 0 <= high}
                yield {"finding": f"{key} of {algorithm} against a2c", "n": n, "runs": len(ours), **found}


def with_the_gap(rows: Sequence[Row]) -> Iterator[Row]:
    for n in SIZES:
        for key in MEASURES:
            pairs = np.array([(r[key], r["gap"]) for r in rows if r["n"] == n and r[key] is not None])
            if len(pairs) < 8:
                continue
            rho = float(stats.spearmanr(*pairs.T).statistic)
            rng = np.random.default_rng(0)
            draws = [
                stats.spearmanr(*pairs[rng.integers(len(pairs), size=len(pairs))].T).statistic for _ in range(DRAWS)
            ]
            interval = np.nanquantile(draws, (0.025, 0.975)).tolist()
            finding = f"rank correlation of {key} with the gap"
            yield {"finding": finding, "n": n, "runs": len(pairs), "rho": rho, "interval": interval}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, required=True)
    options = parser.parse_args()
    names = {f"maze-{algorithm}": algorithm for algorithm in ALGORITHMS if done(options.studies / f"maze-{algorithm}")}
    results = Results(options.studies, names)
    kept = KeptRows(RESULTS, ("algorithm", "n", "run"))
    for name, algorithm in names.items():
        for n in SIZES:
            gap, trained = gaps(results, name, n), returns(results, name, n, on="train")
            for run in range(len(gap)):
                if kept.lacks(algorithm, n, run):
                    head = {"algorithm": algorithm, "n": n, "run": run, "command": STUDIES[name]}
                    scores = {"gap": float(gap[run]), "train_return": float(trained[run])}
                    kept.add(head | scores | diagnose(options.studies / name / "runs" / f"n{n}-run{run}"))
    kept.conclude([*against_a2c(kept.rows), *with_the_gap(kept.rows)])


if __name__ == "__main__":
    main()
