"""One slow peer among gossiping learners: how far do the others drift apart, and how often do they send nothing?

    python benchmarks/slow_peer.py                              every topology, n = 4, 8, 16: about half an hour
    python benchmarks/slow_peer.py --topologies ring --sizes 8  a part of it
    PYTHONPATH=OLD:OLD/envs python benchmarks/slow_peer.py --code before     the same of another checkout's gossip

In one process and on a simulated clock, so the rows repeat bit for bit: n learners add noise of 0.01 per number
(d = 100) and exchange once an update. An update takes 0.75 to 1.25 units of time, drawn anew each time; those of rank
n/2 take 1, 4 or 100 times as long, or it never makes one. Measured over ``--units`` after the
warm-up: the mean distance of the OTHERS to their own mean (Frobenius norm over them), and the share of their rounds
in which nothing was sent although the graph had somebody to send to. The same learners are measured at equal speeds,
so the columns compare.

One JSON line per (code, mixing, topology, n, slowness, seed), appended as soon as it is known; rows that are there
already are not run again. Then the table of ratios, and a picture beside the rows.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gala.bench.machine import machine_facts
from gala.gossip.averager import GossipAverager
from gala.gossip.graphs.topology import TOPOLOGIES
from gala.gossip.transport.in_process import InProcessMailboxes

Row = dict[str, Any]
SIZES, SLOWER = (4, 8, 16), (1.0, 4.0, 100.0, math.inf)
DIMENSION, NOISE, JITTER = 100, 0.01, 0.25
WARM_UP, SLOW_WARM_UP = 300, 5  # units of time, and updates of the slow learner
RESULTS = Path(__file__).parent / "results" / "slow_peer.jsonl"


def durations(n: int, slower: float, seed: int) -> Iterator[tuple[float, int]]:
    """(time, rank) of every update, in the order of time."""
    rng = np.random.default_rng((seed, n))
    pace = [slower if rank == n // 2 else 1.0 for rank in range(n)]
    queue = [(pace[rank] * float(rng.random()), rank) for rank in range(n) if pace[rank] < math.inf]
    heapq.heapify(queue)
    while True:
        time, rank = heapq.heappop(queue)
        yield time, rank
        heapq.heappush(queue, (time + pace[rank] * float(rng.uniform(1 - JITTER, 1 + JITTER)), rank))


def measure(topology: str, n: int, slower: float, mixing: str, units: int, seed: int, **rule: Any) -> Row:
    """One row."""
    rng = np.random.default_rng((seed, n, sum(map(ord, topology))))
    boxes = InProcessMailboxes(n, DIMENSION)
    averagers = [
        GossipAverager(
            [torch.zeros(DIMENSION)],
            rank=rank,
            world_size=n,
            mailbox=boxes.endpoint(rank),
            topology=topology,
            mixing=mixing,  # type: ignore[arg-type]
            **rule,
        )
        for rank in range(n)
    ]
    others = [averager for averager in averagers if averager.rank != n // 2]
    begin = WARM_UP + (SLOW_WARM_UP * slower if slower < math.inf else 0)
    spreads, next_look, rounds, kept = [], begin, 0, 0
    weight_min = 1.0
    for time, rank in durations(n, slower, seed):
        if time > begin + units:
            break
        averager = averagers[rank]
        averager.flat.add_(torch.from_numpy(rng.standard_normal(DIMENSION, np.float32)), alpha=NOISE)
        before = averager.state_dict()["counts"]["sent"]
        averager.step()
        if time < begin or rank == n // 2:
            continue
        if TOPOLOGIES[topology].out_shares(rank, averager.updates - 1, n):
            rounds += 1
            kept += averager.state_dict()["counts"]["sent"] == before
        weight_min = min(weight_min, averager.weight)
        while next_look <= time:
            stacked = torch.stack([other.flat for other in others])
            spreads.append(float(torch.linalg.norm(stacked - stacked.mean(0))))
            next_look += 1.0
    return {
        "mixing": mixing,
        "topology": topology,
        "learners": n,
        "slower": slower if slower < math.inf else "never",
        "seed": seed,
        "spread": float(np.mean(spreads)),
        "rounds_without_message": kept / max(rounds, 1),
        "weight_min": weight_min,
    }


def key(row: Row) -> tuple[Any, ...]:
    """What one row is about."""
    return tuple(row[name] for name in ("code", "mixing", "topology", "learners", "slower", "seed"))


def table(rows: list[Row]) -> list[str]:
    """The rows of ``now`` against equal speeds, and against those before the change."""
    seeds = {row["seed"] for row in rows}
    spread: dict[tuple[Any, ...], float] = {}
    for row in rows:
        name = (row["code"], row["mixing"], row["topology"], row["learners"], row["slower"])
        spread[name] = spread.get(name, 0.0) + row["spread"] / len(seeds)
    names = sorted({name[2:4] for name in spread}, key=lambda name: (name[1], name[0]))
    lines = [f"{'n, graph':<26}{'before':>8}{'now':>8}{'x4':>7}{'x100':>7}{'never':>7}   before: x100  copies: x1 x100"]
    for topology, n in names:
        at = {(c, m, s): v for (c, m, t, size, s), v in spread.items() if (t, size) == (topology, n)}
        equal = at.get(("now", "pushsum", 1.0), math.nan)
        cells = [at.get(("before", "pushsum", 1.0), math.nan), equal]
        ratios = [at.get(("now", "pushsum", s), math.nan) / equal for s in (4.0, 100.0, "never")]
        old = [
            at.get(k, math.nan)
            for k in (("before", "pushsum", 100.0), *(("before", "copy-average", s) for s in (1.0, 100.0)))
        ]
        text = "".join(f"{x:8.3f}" for x in cells) + "".join(f"{x:7.2f}" for x in ratios)
        lines.append(f"{n:>2} {topology:<23}{text}   " + "".join(f"{x:8.2f}" for x in old))
    return lines


def draw(rows: list[Row], path: Path) -> None:
    """Spread with a peer 100 times slower against equal speeds, a point per graph: before, copies, now."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = {"before": ("before", "pushsum"), "copy-average": ("before", "copy-average"), "now": ("now", "pushsum")}
    sizes = sorted({row["learners"] for row in rows})
    figure, axes = plt.subplots(1, len(sizes), figsize=(4.2 * len(sizes), 4.6), sharey=True, squeeze=False)
    for n, axis in zip(sizes, axes[0], strict=True):
        for color, (label, kind) in zip(("tab:red", "tab:gray", "tab:blue"), kinds.items(), strict=True):
            at = {
                (row["topology"], row["slower"]): row["spread"]
                for row in rows
                if (row["code"], row["mixing"]) == kind and row["learners"] == n
            }
            graphs = [t for t in TOPOLOGIES if (t, 1.0) in at and (t, 100.0) in at]
            equal, slow = [at[t, 1.0] for t in graphs], [at[t, 100.0] for t in graphs]
            axis.scatter(equal, slow, s=18, color=color, label=label)
        low, high = axis.get_xlim()
        axis.plot([low, high], [low, high], color="black", linewidth=0.8)
        axis.set(title=f"{n} learners", xlabel="spread at equal speeds", yscale="log")
    axes[0, 0].set_ylabel("spread of the others, one learner 100 times slower")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", choices=("now", "before"), default="now", help="label of the rows")
    parser.add_argument("--mixings", nargs="+", default=["pushsum"], choices=("pushsum", "copy-average"))
    parser.add_argument("--topologies", nargs="+", choices=TOPOLOGIES, default=list(TOPOLOGIES))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--slower", nargs="+", type=float, default=SLOWER)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print what was measured, and draw it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {key(row) for row in rows}
    command = f"python benchmarks/slow_peer.py --code {options.code} --units {options.units} --seed {options.seed}"
    facts = {"command": command, "units": options.units, "machine": machine_facts()}
    cases = itertools.product(options.sizes, options.topologies, options.mixings, options.slower)
    for n, topology, mixing, slower in cases if not options.table else ():
        label = slower if slower < math.inf else "never"
        if (options.code, mixing, topology, n, label, options.seed) in known:
            continue
        row = {"code": options.code} | measure(topology, n, slower, mixing, options.units, options.seed)
        print(json.dumps(row), flush=True)
        with options.out.open("a") as file:
            file.write(json.dumps(row | facts) + "\n")
        rows.append(row)
    print("\n".join(table(rows)))
    draw(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
