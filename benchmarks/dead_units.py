"""What learning rates do to a network: the share of ReLU units that no observation wakes any more.

    python benchmarks/dead_units.py --studies STUDIES          half an hour of one core
    python benchmarks/dead_units.py --table                    what was measured

Pong with 64 simulators in all and 500,000 env_steps, A2C 1 x 64 and GALA 4 x 16 at two rates each, stock otherwise.
Beside the share, the explained variance of the values, which falls where features are lost: both means over the last
fifth of the training. It goes on where it was cut.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from kept_rows import KeptRows, Row

from gala.runs.run_dir import RunDir

RESULTS = Path(__file__).parent / "results" / "dead_units.jsonl"
KEYS = ("algorithm", "lr", "seed")
ALGORITHMS = {"a2c": "algo=a2c learners=1 envs_per_learner=64", "gala": "algo=gala learners=4 envs_per_learner=16"}
RATES = ("7e-4", "1.4e-3")
TRAINING = "preset=atari/pong steps=500000 gossip.lr_scaling=none diagnose.dead_units=50"
TAGS = {"dead_units": "diagnose/dead_units", "explained_variance": "losses/explained_variance"}
QUIET = "log.tensorboard=false log.panel=off torch_threads=1"


def train(algorithm: str, lr: str, seed: int, run: Path) -> Row:
    """One training, as a row."""
    words = [*TRAINING.split(), *ALGORITHMS[algorithm].split(), f"optim.lr={lr}", f"seed={seed}"]
    said = [*QUIET.split(), f"run={run}", "overwrite=true"]
    subprocess.run([sys.executable, "-m", "gala", "train", *words, *said], check=True, stdout=subprocess.DEVNULL)
    records = RunDir.open(run).read_metrics()
    late = [record for record in records if record["global_step"] >= 0.8 * records[-1]["global_step"]]
    row = {"algorithm": algorithm, "lr": lr, "seed": seed, "env_steps": records[-1]["global_step"]}
    for name, tag in TAGS.items():
        row[name] = float(np.mean([record[tag] for record in late if tag in record]))
    return row | {"command": " ".join(["gala train", *words])}


def table(rows: Sequence[Row]) -> str:
    """One line for each algorithm and rate: means over seeds."""
    lines = ["| algorithm | learning rate | seeds | dead units | explained variance |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for algorithm, lr in product(ALGORITHMS, RATES):
        if mine := [row for row in rows if (row["algorithm"], row["lr"]) == (algorithm, lr)]:
            dead, explained = (np.mean([row[name] for row in mine]) for name in TAGS)
            lines.append(f"| {algorithm} | {lr} | {len(mine)} | {dead:.0%} | {explained:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, help="a directory for trainings")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    kept = KeptRows(options.out, KEYS)
    if options.table:
        print(table(kept.rows))
        return
    if options.studies is None:
        parser.error("give --studies, a directory for trainings")
    for seed, algorithm, lr in product(range(1, options.seeds + 1), ALGORITHMS, RATES):
        if kept.lacks(algorithm, lr, seed):
            kept.add(train(algorithm, lr, seed, options.studies / f"{algorithm}-{lr}-s{seed}"))
    kept.conclude([])


if __name__ == "__main__":
    main()
