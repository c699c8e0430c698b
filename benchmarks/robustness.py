"""How many seeds solve the task as simulators are added? A2C 1 x n beside GALA and independent learners 4 x n/4.

    python benchmarks/robustness.py --studies STUDIES      an hour on two cores; goes on where it was cut

A claim of arXiv 1906.04585: as simulators grow, fewer of A2C's runs converge, and gossip keeps their number. Here on
CartPole: 500k env_steps with 16, 32, 64 and 128 simulators in all, ten seeds each, the learning rate as it is in the
preset or scaled by the root of the simulators. A training has solved the task if its last policy scores the bar that is
written in the preset, in about a hundred episodes of sampled actions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from compared import compared
from kept_rows import KeptRows, Row

from gala.config.parse import parse_config
from gala.experiments.statistics import wilson

RESULTS = Path(__file__).parent / "results" / "robustness.jsonl"
TASK = "classic/cartpole"
ALGORITHMS = ("a2c", "gala", "independent")
ENVS, SCALING, SEEDS = (16, 32, 64, 128), ("none", "sqrt"), 10
KEYS = ("algorithm", "envs", "lr_scaling", "seed")


def train(studies: Path, envs: int, scaling: str, steps: str) -> Iterator[Row]:
    words = [f"preset={TASK}", f"algos={','.join(ALGORITHMS)}", f"seeds={SEEDS}", f"steps={steps}", f"envs={envs}"]
    if scaling == "sqrt":
        words += ["optim.lr_scaling=sqrt", "optim.lr_reference_envs=4"]  # 4 is what the preset's rate was found with
    out = studies / f"{scaling}-{envs}"
    for found in compared(words, out):
        row = {"algorithm": found["group"], "envs": envs, "lr_scaling": scaling, "seed": found["seed"]}
        row["score"] = found["evaluation"]["score"]["sampled"]
        yield row | {key: found[key] for key in ("command", "seconds")}


def findings(rows: Sequence[Row]) -> Iterator[Row]:
    bar = float(parse_config([f"preset={TASK}"]).solved_return)
    for scaling, algorithm, envs in product(SCALING, ALGORITHMS, ENVS):
        of = (algorithm, envs, scaling)
        scores = [r["score"] for r in rows if (r["algorithm"], r["envs"], r["lr_scaling"]) == of]
        if scores:
            solved = sum(score >= bar for score in scores)
            share = wilson(solved, len(scores))
            found = {"finding": f"{algorithm}, {envs} simulators, lr_scaling={scaling}", "seeds": len(scores)}
            yield found | {"solved": solved, "share": [share.low, share.high], "worst": min(scores)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, required=True, help="a directory for trainings")
    parser.add_argument("--steps", default="5e5", help="env_steps of every training")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    kept = KeptRows(options.out, KEYS)
    for scaling, envs in product(reversed(SCALING), ENVS):
        if sum((r["envs"], r["lr_scaling"]) == (envs, scaling) for r in kept.rows) == SEEDS * len(ALGORITHMS):
            continue
        kept.add_new(train(options.studies, envs, scaling, options.steps))
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
