"""How many seeds solve the task as simulators are added? A2C 1 x n beside GALA and independent learners 4 x n/4.

    python benchmarks/robustness.py --studies STUDIES      an hour on two cores; goes on where it was cut
    python benchmarks/robustness.py --table                what was measured; draws the picture

A claim of arXiv 1906.04585: as simulators grow, fewer of A2C's runs converge, and gossip keeps their number. Here on
CartPole: 500k env_steps with 16, 32, 64 and 128 simulators in all, ten seeds each, the learning rate as it is in the
preset or scaled by their root. A training has solved the task if its last policy scores the bar that is
written in the preset, in about a hundred episodes of sampled actions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import matplotlib
from compared import bar_of, compared
from kept_rows import KeptRows, Row

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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
    for scaling, algorithm, envs in product(SCALING, ALGORITHMS, ENVS):
        solved, seeds = solved_of(rows, algorithm, envs, scaling)
        if seeds:
            share = wilson(solved, seeds)
            found = {"finding": f"{algorithm}, {envs} simulators, lr_scaling={scaling}", "seeds": seeds}
            yield found | {"solved": solved, "share": [share.low, share.high]}


def solved_of(rows: Sequence[Row], algorithm: str, envs: int, scaling: str) -> tuple[int, int]:
    """(trainings whose last policy scores the bar, trainings)."""
    bar, of = bar_of(TASK), (algorithm, envs, scaling)
    assert bar is not None
    scores = [r["score"] for r in rows if (r["algorithm"], r["envs"], r["lr_scaling"]) == of]
    return sum(score >= bar for score in scores), len(scores)


def table(rows: Sequence[Row]) -> str:
    lines = [f"| learning rate | algorithm | {' | '.join(f'{n} simulators' for n in ENVS)} |"]
    lines.append(f"| --- | --- {'| ---: ' * len(ENVS)}|")
    for scaling, algorithm in product(SCALING, ALGORITHMS):
        counts = [solved_of(rows, algorithm, envs, scaling) for envs in ENVS]
        rate = "the preset's" if scaling == "none" else "times the root of the simulators"
        lines.append(f"| {rate} | {algorithm} | {' | '.join(f'{k} of {n}' for k, n in counts)} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Share of trainings that solve the task against the simulators, with Wilson's 95 % intervals."""
    figure, panels = plt.subplots(1, len(SCALING), figsize=(9, 3.6), dpi=120, sharey=True)
    for axes, scaling in zip(panels, SCALING, strict=True):
        for k, algorithm in enumerate(ALGORITHMS):
            shares = [wilson(*solved_of(rows, algorithm, envs, scaling)) for envs in ENVS]
            at = [envs * 1.06 ** (k - 1) for envs in ENVS]
            middle = [share.estimate for share in shares]
            ends = [[max(s.estimate - s.low, 0) for s in shares], [max(s.high - s.estimate, 0) for s in shares]]
            axes.errorbar(at, middle, ends, label=algorithm, marker="o", capsize=3, lw=1.2)
        rate = "as in the preset" if scaling == "none" else "times the root of the simulators"
        axes.set(xscale="log", xlabel="simulators in all", title=f"learning rate {rate}", ylim=(-0.03, 1.03))
        axes.set_xticks(ENVS, [str(envs) for envs in ENVS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of ten trainings that score 475")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, help="a directory for trainings")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--steps", default="5e5", help="env_steps of every training")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    kept = KeptRows(options.out, KEYS)
    if options.table:
        print(table(kept.rows))
        draw(kept.rows, options.out.with_suffix(".png"))
        return
    if options.studies is None:
        parser.error("give --studies, a directory for trainings")
    for scaling, envs in product(reversed(SCALING), ENVS):
        if sum((r["envs"], r["lr_scaling"]) == (envs, scaling) for r in kept.rows) == SEEDS * len(ALGORITHMS):
            continue
        kept.add_new(train(options.studies, envs, scaling, options.steps))
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
