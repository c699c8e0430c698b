"""What of gossip makes it learn? One part changed at a time: graph, staleness, period, PushSum, mixing at all, noise.

    python benchmarks/ablations.py --studies STUDIES       an hour on two cores; goes on where it was cut
    python benchmarks/ablations.py --table                 what was measured

CartPole, 500k env_steps, eight learners with eight simulators each, every variant at the same learning rate: the
preset's times the root of the simulators. Gossip keeps most seeds alive there, and learners that never talk do not. A
score is the mean return of the last policy in a hundred episodes of sampled actions: of the consensus, or the mean over
learners where nothing is averaged.

`noise alone` is learners that never talk, each of whose steps is followed by a random one as long as gossip's own
corrections: if noise were what helps, this would. `last tenth` exchanges only there: one late merge might be worth as
much as many early ones.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from compared import bar_of, compared
from kept_rows import KeptRows, Row

from gala.api.run import Run
from gala.experiments.scores import interval
from gala.experiments.statistics import iqm

RESULTS = Path(__file__).parent / "results" / "ablations.jsonl"
KEYS = ("variant", "seed")
TASK, LR = "classic/cartpole", 0.012
GRID = (f"preset={TASK}", "steps=5e5", "envs=64", "learners=8", f"optim.lr={LR}")

GALA = "gala (ring)"
VARIANTS = {
    GALA: ("gala",),
    "independent": ("independent",),
    "noise alone": ("independent", "optim.name=ablation_parts:NoisyAdam"),
    "last tenth": ("gala", "gossip.topology=ablation_parts:LAST_TENTH"),
    "first half": ("gala", "gossip.topology=ablation_parts:FIRST_HALF"),
    "undirected ring": ("gala", "gossip.topology=undirected-ring"),
    "ring, 3 peers": ("gala", "gossip.peers=3"),
    "exponential": ("gala", "gossip.topology=exponential"),
    "one-peer exponential": ("gala", "gossip.topology=one-peer-exponential"),
    "complete": ("gala", "gossip.topology=complete"),
    "random, 1 peer": ("gala", "gossip.topology=random-1"),
    "random pairs": ("gala", "gossip.topology=random-pairs"),
    "every 4 updates": ("gala", "gossip.every=4"),
    "every 16 updates": ("gala", "gossip.every=16"),
    "tau 0 (lock-step)": ("gala-sync",),
    "tau 4, wait": ("gala", "gossip.tau=4", "gossip.at_bound=wait"),
    "copy-average": ("copy-average",),
    "allreduce of parameters": ("gala", "gossip.mixing=allreduce"),
    "allreduce of gradients": ("allreduce",),
    "a2c, 1 x 64": ("a2c",),
    "half the rate: gala": ("gala", "optim.lr=0.006"),
    "half the rate: a2c": ("a2c", "optim.lr=0.006"),
    "half the rate: allreduce": ("allreduce", "optim.lr=0.006"),
    "twice the rate: gala": ("gala", "optim.lr=0.024"),
    "twice the rate: a2c": ("a2c", "optim.lr=0.024"),
}
"""Name -> algorithm of `gala compare`, and settings."""


def train(kept: KeptRows, studies: Path, variants: Sequence[str], seeds: range) -> None:
    """What has no row yet, seed by seed."""
    for seed in seeds:
        for variant in (name for name in variants if kept.lacks(name, seed)):
            algorithm, *words = VARIANTS[variant]
            out = studies / f"{variant.replace(' ', '_')}-{seed}"
            grid = [*GRID, f"algos={algorithm}", *words, f"first_seed={seed}", "seeds=1"]
            for found in compared(grid, out):
                kept.add(row_of(variant, found, Run(out / "runs" / found["name"], trust=True)))


def row_of(variant: str, found: Row, run: Run) -> Row:
    row = {"variant": variant, "seed": found["seed"], "score": found["evaluation"]["score"]["sampled"]}
    policies = found["evaluation"]["policies"]["sampled"]
    row["learners"] = [p["return_mean"] for name, p in policies.items() if name != "consensus"]
    metrics = run.metrics()
    if "gossip/consensus_distance" in metrics:
        apart, lr = metrics["gossip/consensus_distance"], metrics["charts/learning_rate"]
        row["distance_per_lr"] = float(np.nanmean(apart[lr > 0] / lr[lr > 0]))
    return row | {key: found[key] for key in ("env_steps", "seconds", "command")}


def scores(rows: Sequence[Row], variant: str) -> np.ndarray:
    return np.array([row["score"] for row in rows if row["variant"] == variant])


def findings(rows: Sequence[Row]) -> Iterator[Row]:
    base = scores(rows, GALA)
    for variant in VARIANTS:
        x = scores(rows, variant)
        if not len(x):
            continue
        found: Row = {"finding": f"{variant} less {GALA}", "seeds": len(x), "iqm": iqm(x)}
        found["at_bar"] = int((x >= (bar_of(TASK) or np.inf)).sum())
        if variant != GALA and min(len(x), len(base)) > 1:
            difference = interval([[x], [base]], lambda a, b: iqm(a[0]) - iqm(b[0]))
            found["difference"] = [difference.low, difference.estimate, difference.high]
        yield found


def table(rows: Sequence[Row]) -> str:
    lines = ["| variant | seeds at 475 | score (IQM) | less GALA's, 95 % | distance / learning rate |"]
    lines.append("| --- | ---: | ---: | --- | ---: |")
    for found in findings(rows):
        variant = found["finding"].removesuffix(f" less {GALA}")
        low, middle, high = found.get("difference", (0.0, 0.0, 0.0))
        less = f"{middle:+.0f} [{low:.0f}, {high:.0f}]" if "difference" in found else ""
        apart = [row["distance_per_lr"] for row in rows if row["variant"] == variant and "distance_per_lr" in row]
        distance = f"{np.median(apart):,.2g}" if apart else ""
        figures = [variant, f"{found['at_bar']} of {found['seeds']}", f"{found['iqm']:.0f}", less, distance]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, help="a directory for trainings")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=1, help="where they begin")
    parser.add_argument("--judge", action="store_true", help="train nothing")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    kept = KeptRows(options.out, KEYS)
    if options.table:
        print(table(kept.rows))
        return
    if not options.judge:
        if options.studies is None:
            parser.error("give --studies, a directory for trainings")
        parts = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, parts))
        train(kept, options.studies, options.variants, range(options.first_seed, options.first_seed + options.seeds))
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
