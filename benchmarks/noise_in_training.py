"""Does the noise scale grow while an agent learns, and is the learning rate right that `gala suggest-lr` names?

    python benchmarks/noise_in_training.py        some twenty minutes on two cores; trainings that are there are kept

After arXiv 1812.06162: one learner of A2C, five seeds, the noise scale from the mean signal and the mean noise of the
second and of the last tenth of a training (of the first, the running means are young). And CartPole with four times the
simulators of its preset, at rates a factor 2 apart around the known one: the rate of the highest mean return over the
training, beside what `gala suggest-lr` recommends from measurements at the preset's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from kept_rows import KeptRows

from gala.api.run import Run

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "noise_in_training.jsonl"
SEEDS = (1, 2, 3, 4, 5)
QUIET = ("algo=a2c", "learners=1", "torch_threads=1", "log.tensorboard=false", "log.checkpoint_interval_s=1e6")
GROWING = {
    "cartpole": ("preset=classic/cartpole", "diagnose.noise=20"),
    "minatar_breakout": (
        "preset=minatar/breakout",
        "optim.lr=1e-3",
        "a2c.max_grad_norm=0.5",
        "steps=500_000",
        "diagnose.noise=20",
    ),
}
KNOWN_LR, FACTORS = 3e-3, (0.5, 1.0, 2.0, 4.0, 8.0)
MORE = ("preset=classic/cartpole", "envs_per_learner=16")


def train(task: str, words: Sequence[str], seed: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        told = ["train", *words, *QUIET, f"seed={seed}", "log.interval_s=0.2"]
        subprocess.run(
            [sys.executable, "-m", "gala", *told, f"run={folder}/run"], check=True, stdout=subprocess.DEVNULL
        )
        metrics = Run(Path(folder) / "run").metrics()
    row = {"task": task, "seed": seed, "command": f"gala {' '.join(told)}"}
    steps, returns = metrics["global_step"], metrics["charts/episodic_return"]
    known = np.isfinite(returns)
    row["area"] = float(np.trapezoid(returns[known], steps[known]) / np.ptp(steps[known]))
    if "diagnose/gradient_noise" in metrics:
        for name, low, high in (("early", 0.1, 0.2), ("late", 0.9, 1.01)):
            inside = (steps >= low * steps[-1]) & (steps < high * steps[-1])
            signal, noise = (np.nanmean(metrics[f"diagnose/gradient_{x}"][inside]) for x in ("signal", "noise"))
            row[name] = float(noise / signal) if signal > 0 else None
    return row


def findings(rows: Sequence[Row]) -> Iterator[Row]:
    for task in GROWING:
        ratios = [r["late"] / r["early"] for r in rows if r["task"] == task and r["early"] and r["late"]]
        if ratios:
            text = f"{task}: noise scale of the last tenth of the training over that of the second"
            yield {"finding": text, "ratios": ratios, "median": float(np.median(ratios)), "wanted": ">= 2"}
    areas = {
        factor: np.array([r["area"] for r in rows if r["task"] == "more" and r["factor"] == factor])
        for factor in FACTORS
    }
    if not all(len(area) for area in areas.values()):
        return
    words = ["suggest-lr", *MORE[:1], "algo=a2c", "learners=1", "envs=16", "--json"]
    done = subprocess.run([sys.executable, "-m", "gala", *words], check=True, capture_output=True, text=True)
    suggested = json.loads(done.stdout.splitlines()[-1])
    best = max(FACTORS, key=lambda factor: float(areas[factor].mean()))
    yield {
        "finding": "cartpole with 16 simulators in place of 4: the suggested learning rate over the best of the grid",
        "ratio": suggested["lr"] / (KNOWN_LR * best),
        "wanted": "1/2 to 2",
        "suggested": suggested["lr"],
        "decided_by": suggested["decided_by"],
        "returns": {f"{KNOWN_LR * factor:g}": [round(float(x), 1) for x in area] for factor, area in areas.items()},
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    kept = KeptRows(RESULTS, ("task", "factor", "seed"))
    jobs = [(task, 1.0, words, seed) for task, words in GROWING.items() for seed in SEEDS]
    jobs += [("more", f, (*MORE, f"optim.lr={KNOWN_LR * f:g}"), seed) for f in FACTORS for seed in SEEDS]
    left = [job for job in jobs if kept.lacks(job[0], job[1], job[3])]
    with ThreadPoolExecutor(2) as pool:
        for (_, factor, _, _), row in zip(left, pool.map(lambda job: train(job[0], job[2], job[3]), left), strict=True):
            kept.add(row | {"factor": factor})
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
