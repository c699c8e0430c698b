"""What slow simulators and slow learners cost: GALA against A2C and all-reduce, in turns, with injected delays.

    python benchmarks/stragglers.py                     all three parts, about a quarter of an hour on two cores

heavy-tail  64 CartPole simulators whose decisions take lognormal times (sigma 1, mean 10 ms; a batched step waits for
            its slowest row): A2C with one learner, all-reduce and GALA with four, rates paired by round.
slow        Four learners, one of which has simulators 1 to 10 times slower: the rate that is left, against
            (n - 1 + 1/k) / n, which is what no waiting at all would leave.
scale       1 to 64 learners with four simulators each, paced so that two cores are not the limit: processor time per
            env_step, which is what a learner costs.

One JSON line per configuration, with the rate of every turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gala.bench.job import BenchJob, Block
from gala.bench.machine import machine_facts
from gala.bench.ratios import paired_ratio
from gala.config.parse import parse_config
from gala.processes.resources import available_cores

Row = dict[str, Any]
LEARNERS, ENVS = 4, 64
COMMON = ["preset=classic/cartpole", "a2c.num_steps=5", "torch_threads=1"]
HEAVY = [*COMMON, "delay.mean_s=0.01", "delay.sigma=1"]
FOUR = [f"learners={LEARNERS}", f"envs_per_learner={ENVS // LEARNERS}"]
SLOWER, SIZES = (1, 2, 4, 10), (1, 4, 16, 64)


def in_turns(variants: dict[str, list[str]], rounds: int, seconds: float) -> dict[str, list[Block]]:
    """Blocks of each variant; every round begins with another."""
    jobs: dict[str, BenchJob] = {}
    blocks: dict[str, list[Block]] = {name: [] for name in variants}
    try:
        for name, words in variants.items():
            jobs[name] = BenchJob(parse_config(words))
        names = list(jobs)
        for i in range(rounds):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                blocks[name].append(jobs[name].measure(seconds))
    finally:
        for job in jobs.values():
            job.close()
    return blocks


def rates(blocks: list[Block]) -> list[float]:
    return [block.env_steps_per_s for block in blocks]


def heavy_tail(rounds: int, seconds: float) -> Iterator[Row]:
    variants = {
        "a2c": [*HEAVY, "algo=a2c", f"envs_per_learner={ENVS}"],
        "allreduce": [*HEAVY, "algo=allreduce", *FOUR],
        "gala": [*HEAVY, "algo=gala", *FOUR],
    }
    found = in_turns(variants, rounds, seconds)
    for name, blocks in found.items():
        ratio = paired_ratio(rates(found["gala"]), rates(blocks))
        yield {"variant": name, "env_steps_per_s": rates(blocks), "gala_over_this": ratio._asdict()}


def slow(rounds: int, seconds: float) -> Iterator[Row]:
    steady = [*COMMON, "delay.mean_s=0.02", *FOUR]
    for algo in ("gala", "allreduce"):
        variants = {k: [*steady, f"algo={algo}", f"delay.slow_learner={k}"] for k in SLOWER}
        blocks = in_turns({f"{k}": words for k, words in variants.items()}, rounds, seconds)
        for k in SLOWER:
            left = paired_ratio(rates(blocks[f"{k}"]), rates(blocks["1"]))
            ideal = (LEARNERS - 1 + 1 / k) / LEARNERS
            row = {"variant": algo, "slower": k, "env_steps_per_s": rates(blocks[f"{k}"]), "left": left._asdict()}
            yield row | {"no_waiting_would_leave": ideal, "of_that": left.median / ideal}


def scale(rounds: int, seconds: float) -> Iterator[Row]:
    for n in SIZES:  # one size at a time: 64 learners are enough processes
        words = [*COMMON, "delay.mean_s=0.25", f"learners={n}", "envs_per_learner=4"]
        blocks = in_turns({"gala": words}, rounds, seconds)["gala"]
        cost = [1e6 * block.cpu * available_cores() / block.env_steps_per_s for block in blocks]
        yield {
            "variant": "gala",
            "learners": n,
            "env_steps_per_s_per_learner": float(np.median(rates(blocks))) / n,
            "core_us_per_env_step": float(np.median(cost)),
            "memory_gib": max(block.memory_gib for block in blocks),
        }


PARTS = {"heavy-tail": heavy_tail, "slow": slow, "scale": scale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each turn")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "stragglers.jsonl")
    options = parser.parse_args()
    command = f"python benchmarks/stragglers.py --rounds {options.rounds} --seconds {options.seconds:g}"
    facts = {"command": command, "seed": 1, "machine": machine_facts()}
    with options.out.open("w") as file:
        for part in options.parts:
            for row in PARTS[part](options.rounds, options.seconds):
                print(json.dumps({"part": part} | row), flush=True)
                file.write(json.dumps({"part": part} | row | facts) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
