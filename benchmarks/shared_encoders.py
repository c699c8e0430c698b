"""Do shared residual blocks play as well, and what does a smaller message save?

    python benchmarks/shared_encoders.py --seeds 10   a minute for each of twenty trainings; those there are kept

MinAtar Breakout, IMPALA's residual encoder (arXiv 1802.01561), two blocks a stage: weights for each block, or one set
for all, each use with its own norm and a scale that begins at 0.1 (arXiv 1710.04773). One learner of A2C, equal
env_steps: the mean return of the last tenth of the training, parameters, bytes of a gossip message, and
milliseconds per exchange of two learners in one process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept_rows import KeptRows

from gala.api.run import Run
from gala.build.envs import probe_spaces
from gala.build.policy import count_parameters
from gala.config.parse import parse_config
from gala.gossip.averager import GossipAverager
from gala.gossip.message import HEADER_BYTES
from gala.gossip.transport.in_process import InProcessMailboxes

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "shared_encoders.jsonl"
STEPS = 300_000
COMMON = ("preset=minatar/breakout_impala", "algo=a2c", "learners=1", "envs_per_learner=32", "model.pooling=mean")
VARIANTS: dict[str, tuple[str, ...]] = {
    "shared": (),
    "unshared": ("model.shared_blocks=false",),
}


def train(name: str, seed: int) -> Row:
    words = [*COMMON, *VARIANTS[name], f"seed={seed}", f"steps={STEPS}", "torch_threads=1", "log.tensorboard=false"]
    config = parse_config(words)
    parameters = count_parameters(config, probe_spaces(config))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gala", "train", *words, f"run={folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        metrics = Run(Path(folder) / "run").metrics()
    steps, returns, took_s = metrics["global_step"], metrics["charts/episodic_return"], metrics["perf/wall_s"]
    late = (steps >= 0.9 * steps[-1]) & np.isfinite(returns)
    row = {"variant": name, "seed": seed, "command": "gala train " + " ".join(words), "parameters": parameters}
    return row | {
        "return": float(returns[late].mean()),
        "env_steps_per_s": float(steps[-1] / took_s[-1]),
        "message_bytes": 4 * parameters + HEADER_BYTES,
    }


def exchange_ms(numel: int, rounds: int = 300) -> float:
    """Median milliseconds of one learner's exchange."""
    boxes, taken = InProcessMailboxes(2, numel), []
    two = [
        GossipAverager([torch.zeros(numel)], rank=r, world_size=2, mailbox=boxes.endpoint(r), topology="ring")
        for r in (0, 1)
    ]
    for _ in range(rounds):
        for averager in two:
            began = time.perf_counter()
            averager.step()
            taken.append(1e3 * (time.perf_counter() - began))
    return float(np.median(taken))


def findings(rows: Sequence[Row]) -> Iterator[Row]:
    returns = {name: np.array([r["return"] for r in rows if r["variant"] == name]) for name in VARIANTS}
    sizes = {name: next(r["parameters"] for r in rows if r["variant"] == name) for name in VARIANTS}
    share = returns["shared"].mean() / returns["unshared"].mean()
    rng = np.random.default_rng(0)
    drawn = [rng.choice(returns[name], (4000, len(returns[name]))).mean(1) for name in VARIANTS]
    interval = np.quantile(drawn[0] / drawn[1], (0.025, 0.975)).tolist()
    text = "return of shared blocks over that of blocks of their own"
    means = {name: float(of.mean()) for name, of in returns.items()}
    yield {"finding": text, "ratio": float(share), "interval": interval, "wanted": ">= 0.95", "numbers": means}
    yield {"finding": "parameters", "ratio": sizes["shared"] / sizes["unshared"], "wanted": "<= 0.65", "numbers": sizes}
    torch.set_num_threads(1)
    costs = {name: exchange_ms(numel) for name, numel in sizes.items()}
    yield {"finding": "milliseconds per exchange", "ratio": costs["shared"] / costs["unshared"], "numbers": costs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 1 on")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    options = parser.parse_args()
    kept = KeptRows(RESULTS, ("variant", "seed"))
    left = [(name, seed) for seed in range(1, options.seeds + 1) for name in VARIANTS if kept.lacks(name, seed)]
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda job: train(*job), left):
            kept.add(row)
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
