"""Which learning rate makes gossip as good as one big batch? A2C 1 x 64, GALA and independent learners 4 x 16.

    python benchmarks/learning_rates.py --studies STUDIES            two hours on two cores; goes on where it was cut
    python benchmarks/learning_rates.py --studies STUDIES --judge    only what is there already

MinAtar Breakout, stock preset but for `optim.lr`, 1M env_steps, seeds 1 to 3 at each rate: the best rate of each
algorithm, by mean score. Then seeds 4 to 8, which chose nothing, at those rates: what is compared. A learner of GALA
takes steps from a quarter of the batch; Adam divides by its noise, so that the same rate moves the mean of four half as
far as one step of the whole batch (see `docs/compare.md`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gala.bench.machine import machine_facts
from gala.experiments.scores import area_under, improvement, interval, non_inferior
from gala.experiments.statistics import iqm

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "learning_rates.jsonl"
TASK = "minatar/breakout"
ALGORITHMS = ("a2c", "gala", "independent")
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
CHOOSING, JUDGED = 3, 8
"""Seeds 1 to CHOOSING choose the rate, those after them up to JUDGED are compared."""
MARGIN = 0.05


def compare(studies: Path, algorithms: Sequence[str], lr: float, seeds: int) -> None:
    """More algorithms or seeds than were there extend what is there."""
    words = [f"preset={TASK}", f"algos={','.join(algorithms)}", f"seeds={seeds}", "steps=1e6", "envs=64"]
    words += [f"optim.lr={lr:g}", f"out={studies / f'{lr:g}'}"]
    subprocess.run([sys.executable, "-m", "gala", "compare", *words], check=True)


def collect(studies: Path) -> list[Row]:
    """A row for each training: algorithm, rate, seed, score, and the mean height of its curve against env_steps."""
    rows = []
    for path in sorted(studies.glob("*/results.jsonl")):
        for found in map(json.loads, path.read_text().splitlines()):
            steps, returns = found["curve"]["env_steps"], found["curve"]["return"]
            row = {"algorithm": found["group"], "lr": found["settings"]["optim.lr"], "seed": found["seed"]}
            row |= {"score": found["evaluation"]["score"]["sampled"], "area": area_under(steps, returns, steps[-1])}
            rows.append(row | {key: found[key] for key in ("command", "seconds", "machine")})
    return rows


def scores(rows: Sequence[Row], algorithm: str, lr: float, seeds: range) -> np.ndarray:
    every = [r for r in rows if (r["algorithm"], r["lr"]) == (algorithm, lr) and r["seed"] in seeds]
    return np.array([r["score"] for r in every])


def best(rows: Sequence[Row], algorithm: str) -> float:
    """The rate of the highest mean score of the seeds that choose."""
    means = {lr: scores(rows, algorithm, lr, range(1, CHOOSING + 1)) for lr in RATES}
    return max((lr for lr in RATES if len(means[lr])), key=lambda lr: float(means[lr].mean()))


def findings(rows: Sequence[Row]) -> Iterator[Row]:
    chosen = {algorithm: best(rows, algorithm) for algorithm in ALGORITHMS}
    judged = {a: scores(rows, a, chosen[a], range(CHOOSING + 1, JUDGED + 1)) for a in ALGORITHMS}
    for algorithm in ALGORITHMS:
        each = {f"{lr:g}": scores(rows, algorithm, lr, range(1, CHOOSING + 1)).tolist() for lr in RATES}
        fresh = judged[algorithm].tolist()
        yield {"algorithm": algorithm, "best_lr": chosen[algorithm], "scores_by_lr": each, "fresh_seeds": fresh}
    for one, other in (("gala", "a2c"), ("gala", "independent"), ("independent", "a2c")):
        x, y = judged[one], judged[other]
        if min(len(x), len(y)) > 1:
            difference = interval([[x], [y]], lambda a, b: iqm(a[0]) - iqm(b[0]))
            yield {
                "finding": f"{one} 4 x 16 less {other}, each at its best rate, seeds that chose nothing",
                "difference": difference.estimate,
                "interval": [difference.low, difference.high],
                "probability_of_improvement": improvement([x], [y]),
                "not_worse_by_5_percent": non_inferior(difference, MARGIN * float(np.mean(y))),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, required=True, help="a directory for trainings; large")
    parser.add_argument("--judge", action="store_true")
    options = parser.parse_args()
    if not options.judge:
        for lr in RATES:
            compare(options.studies, ALGORITHMS, lr, CHOOSING)
        rows = collect(options.studies)
        for algorithm in ALGORITHMS:
            compare(options.studies, [algorithm], best(rows, algorithm), JUDGED)
    rows = collect(options.studies)
    found = list(findings(rows))
    for line in found:
        print(line)
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in [*rows, *found, {"machine": machine_facts()}]))


if __name__ == "__main__":
    main()
