"""Simulates about a thousand learners in one process, and compares their contraction with the closed forms.

    python benchmarks/thousand_ranks.py

Synchronous rounds of ``GossipAverager`` in float64 on the slowest mode of each graph, one JSON line per graph: measured
factor per round (mean over the rounds), closed form, seconds. Directed ring: cos(pi / n). Exponential graph of n = 2^T:
(T - 1) / (T + 1). One-peer exponential of n = 2^T: 0 after T rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gala.bench.machine import machine_facts
from gala.gossip.averager import GossipAverager
from gala.gossip.evidence.events import consensus_distance
from gala.gossip.transport.in_process import InProcessMailboxes


def wave(n: int, turns: int) -> torch.Tensor:
    """A Fourier mode of a circulant graph as n rows of (real, imaginary), of Frobenius norm 1."""
    angle = 2 * math.pi * turns * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), angle.sin()], dim=1) / math.sqrt(n)


def simulate(topology: str, start: torch.Tensor, rounds: int) -> list[float]:
    """Consensus distance before the first round and after each."""
    n, d = start.shape
    boxes = InProcessMailboxes(n, d)
    averagers = [
        GossipAverager(
            [start[rank].clone()], rank=rank, world_size=n, mailbox=boxes.endpoint(rank), topology=topology, tau=0
        )
        for rank in range(n)
    ]
    distances = [consensus_distance(start)]
    for _ in range(rounds):
        for averager in averagers:
            averager.send()
        for averager in averagers:
            averager.receive()
        distances.append(consensus_distance(torch.stack([averager.flat for averager in averagers])))
    return distances


# Hop 2^k turns mode n/2 by pi * 2^k: only hop 1 is out of phase, so the mode keeps (1 - 1 + T - 1) / (T + 1).
CASES: dict[str, tuple[int, int, Callable[[int], float]]] = {
    "ring": (1, 1000, lambda n: math.cos(math.pi / n)),
    "exponential": (512, 1024, lambda n: (math.log2(n) - 1) / (math.log2(n) + 1)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "thousand_ranks.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for topology, (turns, n, closed_form) in CASES.items():
        started = time.monotonic()
        distances = simulate(topology, wave(n, turns), options.rounds)
        factor = (distances[-1] / distances[0]) ** (1 / options.rounds)
        rows.append({"topology": topology, "learners": n, "factor": factor, "closed_form": closed_form(n)})
        rows[-1] |= {"rounds": options.rounds, "seconds": round(time.monotonic() - started, 2)}
    started = time.monotonic()
    distances = simulate("one-peer-exponential", torch.randn(1024, 2, dtype=torch.float64), 10)
    rows.append({"topology": "one-peer-exponential", "learners": 1024, "rounds": 10, "closed_form": 0.0})
    rows[-1] |= {"factor": (distances[-1] / distances[0]) ** 0.1, "residual": distances[-1] / distances[0]}
    rows[-1]["seconds"] = round(time.monotonic() - started, 2)
    facts = machine_facts()
    with options.out.open("w") as file:
        for row in rows:
            print(row)
            print(json.dumps({"benchmark": "thousand_ranks", "seed": 0, **row, "machine": facts}), file=file)


if __name__ == "__main__":
    main()
