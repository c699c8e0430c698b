"""How many seeds solve the task as simulators are added? A2C 1 x n beside GALA (and independent learners) 4 x n/4.

    python benchmarks/robustness.py --studies STUDIES      CartPole: an hour on two cores; goes on where it was cut
    python benchmarks/robustness.py --task minatar/breakout --studies STUDIES     two hours
    python benchmarks/robustness.py --table                what was measured; draws the picture

A claim of arXiv 1906.04585: as simulators grow, fewer of A2C's runs converge, and gossip keeps their number. Here with
16, 32, 64 and 128 simulators in all, ten seeds each, the learning rate as it is in the preset or scaled by their root.
A training has solved the task if its last policy scores the bar that is written in the preset, in about a hundred
episodes of sampled actions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib
from compared import bar_of, compared
from kept_rows import KeptRows, Row

from gala.experiments.statistics import iqm, wilson

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ENVS, SCALING, SEEDS = (16, 32, 64, 128), ("none", "sqrt"), 10
KEYS = ("algorithm", "envs", "lr_scaling", "seed")


@dataclass(frozen=True)
class Study:
    task: str
    steps: str
    algorithms: tuple[str, ...]
    reference_envs: int
    """Simulators in all for which the preset's rate was found."""
    results: str

    @property
    def path(self) -> Path:
        return Path(__file__).parent / "results" / f"{self.results}.jsonl"

    @property
    def bar(self) -> float:
        bar = bar_of(self.task)
        assert bar is not None
        return bar


CARTPOLE = Study("classic/cartpole", "5e5", ("a2c", "gala", "independent"), 4, "robustness")
BREAKOUT = Study("minatar/breakout", "1e6", ("a2c", "gala"), 64, "robustness_breakout")
STUDIES = {study.task: study for study in (CARTPOLE, BREAKOUT)}


def train(kept: KeptRows, study: Study, studies: Path, scaling: str, envs: int, seed: int) -> None:
    """What has no row yet; a row for each training."""
    left = [name for name in study.algorithms if kept.lacks(name, envs, scaling, seed)]
    if not left:
        return
    words = [f"preset={study.task}", f"algos={','.join(left)}", f"first_seed={seed}", "seeds=1"]
    words += [f"steps={study.steps}", f"envs={envs}"]
    if scaling == "sqrt":
        words += ["optim.lr_scaling=sqrt", f"optim.lr_reference_envs={study.reference_envs}"]
    for found in compared(words, studies / study.results / f"{scaling}-{envs}-{seed}"):
        row = {"algorithm": found["group"], "envs": envs, "lr_scaling": scaling, "seed": found["seed"]}
        row["score"] = found["evaluation"]["score"]["sampled"]
        kept.add_new([row | {key: found[key] for key in ("command", "seconds")}])


def findings(rows: Sequence[Row], study: Study) -> Iterator[Row]:
    for scaling, algorithm, envs in product(SCALING, study.algorithms, ENVS):
        scores = scores_of(rows, algorithm, envs, scaling)
        if scores:
            solved = solved_of(scores, study.bar)
            share = wilson(solved, len(scores))
            found = {"finding": f"{algorithm}, {envs} simulators, lr_scaling={scaling}", "seeds": len(scores)}
            yield found | {"solved": solved, "share": [share.low, share.high], "iqm": iqm(scores)}


def scores_of(rows: Sequence[Row], algorithm: str, envs: int, scaling: str) -> list[float]:
    of = (algorithm, envs, scaling)
    return [row["score"] for row in rows if (row["algorithm"], row["envs"], row["lr_scaling"]) == of]


def solved_of(scores: Sequence[float], bar: float) -> int:
    """Trainings whose last policy scores the bar."""
    return sum(score >= bar for score in scores)


def table(rows: Sequence[Row], study: Study) -> str:
    """How many solved the task, and the interquartile mean of all scores."""
    lines = [f"| learning rate | algorithm | {' | '.join(f'{n} simulators' for n in ENVS)} |"]
    lines.append(f"| --- | --- {'| ---: ' * len(ENVS)}|")
    for scaling, algorithm in product(SCALING, study.algorithms):
        of_each = [scores_of(rows, algorithm, envs, scaling) for envs in ENVS]
        if not any(of_each):
            continue
        rate = "the preset's" if scaling == "none" else "times the root of the simulators"
        cells = [f"{solved_of(s, study.bar)} of {len(s)}, {iqm(s):.3g}" if s else "" for s in of_each]
        lines.append(f"| {rate} | {algorithm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], study: Study, path: Path) -> None:
    """Share of trainings that solve the task against the simulators, with Wilson's 95 % intervals."""
    scalings = [scaling for scaling in SCALING if any(row["lr_scaling"] == scaling for row in rows)]
    figure, panels = plt.subplots(
        1, len(scalings), figsize=(4.5 * len(scalings), 3.6), dpi=120, sharey=True, squeeze=False
    )
    for axes, scaling in zip(panels[0], scalings, strict=True):
        for k, algorithm in enumerate(study.algorithms):
            of_each = {envs: scores_of(rows, algorithm, envs, scaling) for envs in ENVS}
            shares = {e: wilson(solved_of(s, study.bar), len(s)) for e, s in of_each.items() if s}
            at = [envs * 1.06 ** (k - 1) for envs in shares]
            middle = [share.estimate for share in shares.values()]
            ends = [
                [max(s.estimate - s.low, 0) for s in shares.values()],
                [max(s.high - s.estimate, 0) for s in shares.values()],
            ]
            axes.errorbar(at, middle, ends, label=algorithm, marker="o", capsize=3, lw=1.2)
        rate = "as in the preset" if scaling == "none" else "times the root of the simulators"
        axes.set(xscale="log", xlabel="simulators in all", title=f"learning rate {rate}", ylim=(-0.03, 1.03))
        axes.set_xticks(ENVS, [str(envs) for envs in ENVS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel(f"share of trainings that score {study.bar:g}")
    panels[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=STUDIES, default=CARTPOLE.task)
    parser.add_argument("--studies", type=Path, help="a directory for trainings")
    parser.add_argument("--scaling", choices=SCALING, nargs="+", default=SCALING)
    parser.add_argument("--envs", type=int, choices=ENVS, nargs="+", default=ENVS)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, help="where rows are kept, if not among the results")
    options = parser.parse_args()
    study = STUDIES[options.task]
    kept = KeptRows(options.out or study.path, KEYS)
    if options.table:
        print(table(kept.rows, study))
        draw(kept.rows, study, kept.path.with_suffix(".png"))
        return
    if options.studies is None:
        parser.error("give --studies, a directory for trainings")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for seed, scaling, envs in product(seeds, options.scaling, options.envs):
        train(kept, study, options.studies, scaling, envs, seed)
    kept.conclude(findings(kept.rows, study))


if __name__ == "__main__":
    main()
