"""Does the floor on the PushSum weight hold, and is all mass kept, at very unequal speeds?

    python benchmarks/weight_floor.py --activations 100000

In one process, float64: learners of speeds 1 to 100 (log-uniform) are activated at random, each activation one
``GossipAverager.step`` on its own clock, 100,000 activations for each registered topology and number of learners. One
JSON line per pair: the smallest weight seen, how far the sums of weights and of numerators (learners and boxes) are
from what they were, and by how much the learners still disagree after all boxes were drained.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gala.bench.machine import machine_facts
from gala.gossip.averager import GossipAverager
from gala.gossip.graphs.topology import TOPOLOGIES
from gala.gossip.transport.in_process import InProcessMailboxes

SIZES = (2, 3, 4, 5, 8, 16, 32)
W_MIN, DIMENSION = 0.25, 4


def measure(topology: str, n: int, activations: int, seed: int) -> dict[str, Any]:
    """One row."""
    rng = np.random.default_rng((seed, n, sum(map(ord, topology))))
    boxes = InProcessMailboxes(n, DIMENSION)
    values = torch.as_tensor(rng.normal(size=(n, DIMENSION)))
    averagers = [
        GossipAverager(
            [values[r].clone()], rank=r, world_size=n, mailbox=boxes.endpoint(r), topology=topology, w_min=W_MIN
        )
        for r in range(n)
    ]
    speeds = 100.0 ** rng.random(n)
    speeds[0], speeds[-1] = 1.0, 100.0
    started, lowest, highest = time.monotonic(), 1.0, 1.0
    for rank in rng.choice(n, size=activations, p=speeds / speeds.sum()):
        averagers[rank].step()
        lowest = min(lowest, averagers[rank].weight)
        highest = max(highest, averagers[rank].weight)
    numerator, weight = boxes.in_flight()
    held = sum((a.weight * a.flat for a in averagers), numerator)
    spread = max(float((a.flat - values.mean(0)).abs().max()) for a in averagers)
    return {
        "benchmark": "weight_floor",
        "topology": topology,
        "learners": n,
        "activations": activations,
        "seed": seed,
        "w_min": W_MIN,
        "smallest_weight": lowest,
        "largest_weight": highest,
        "floor_holds": lowest >= W_MIN - 1e-12,
        "weight_error": abs(sum(a.weight for a in averagers) + weight - n),
        "numerator_error": float((held - values.sum(0)).abs().max()),
        "distance_to_true_mean": spread,
        "seconds": round(time.monotonic() - started, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", type=int, default=100_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "weight_floor.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with options.out.open("w") as file:
        for topology, n in itertools.product(TOPOLOGIES, options.sizes):
            rows.append(measure(topology, n, options.activations, options.seed))
            print(json.dumps(rows[-1]), file=file, flush=True)
        print(json.dumps({"machine": machine_facts()}), file=file)
    worst = max(max(row["weight_error"], row["numerator_error"]) for row in rows)
    print(
        f"{sum(row['floor_holds'] for row in rows)} of {len(rows)} keep the floor; largest error of a sum {worst:.1e}"
    )


if __name__ == "__main__":
    main()
