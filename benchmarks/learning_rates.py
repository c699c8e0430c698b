"""Which learning rate makes gossip as good as one big batch? A2C 1 x 64, GALA and independent learners 4 x 16.

    python benchmarks/learning_rates.py --studies STUDIES            two hours on two cores; goes on where it was cut
    python benchmarks/learning_rates.py --studies STUDIES --tasks minatar/asterix --choosing 2 --fresh 0
    python benchmarks/learning_rates.py --studies STUDIES --tasks minatar/asterix --rates 0.008 --fresh 0
        --words "a2c.max_grad_norm=0 gossip.lr_scaling=noise"        other settings, beside them
    python benchmarks/learning_rates.py --judge                      only the rows that are there already
    python benchmarks/learning_rates.py --table                      what was measured

A MinAtar game, stock preset but for the rate and `--words`, by default the limit of the gradient's norm and the
scaling that the preset had then; 1M env_steps, seeds 1 to 3 at each rate: the best rate of each algorithm, by mean
score. Then seeds 4 to 8, which chose nothing, at those rates: what is compared. A learner of GALA takes steps from a
quarter of the batch; Adam divides by its noise, so that the same rate moves the mean of four half as far as one step of
the whole batch (see `docs/compare.md`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from compared import compared
from kept_rows import KeptRows, Row

from gala.experiments.scores import area_under, improvement, interval, non_inferior
from gala.experiments.statistics import iqm

RESULTS = Path(__file__).parent / "results" / "learning_rates.jsonl"
KEYS = ("task", "words", "algorithm", "lr", "seed")
GRID = "gossip.lr_scaling=none a2c.max_grad_norm=0.5"
"""The words of the grid of rates."""
ALGORITHMS = ("a2c", "gala", "independent")
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
MARGIN = 0.05


def compare(studies: Path, task: str, words: str, algorithms: Sequence[str], lr: float, seeds: range) -> Iterator[Row]:
    """A row for each training: algorithm, rate, seed, score, and the mean height of its curve against env_steps. More
    algorithms or seeds than were there extend what is there."""
    out = studies / "-".join([task.replace("/", "_"), f"{lr:g}", *(() if words == GRID else words.split())])
    grid = [f"preset={task}", f"algos={','.join(algorithms)}", f"first_seed={seeds.start}", f"seeds={len(seeds)}"]
    for found in compared([*grid, "steps=1e6", "envs=64", f"optim.lr={lr:g}", *words.split()], out):
        steps, returns = found["curve"]["env_steps"], found["curve"]["return"]
        row = {"task": task, "words": words, "algorithm": found["group"], "lr": lr, "seed": found["seed"]}
        row |= {"score": found["evaluation"]["score"]["sampled"], "area": area_under(steps, returns, steps[-1])}
        yield row | {key: found[key] for key in ("command", "seconds", "machine")}


def scores(rows: Sequence[Row], algorithm: str, lr: float, seeds: range) -> np.ndarray:
    every = [r for r in rows if (r["algorithm"], r["lr"]) == (algorithm, lr) and r["seed"] in seeds]
    return np.array([r["score"] for r in every])


def best(rows: Sequence[Row], algorithm: str, choosing: int) -> float:
    """The rate of the highest mean score of the seeds 1 to ``choosing``."""
    means = {lr: scores(rows, algorithm, lr, range(1, choosing + 1)) for lr in RATES}
    return max((lr for lr in RATES if len(means[lr])), key=lambda lr: float(means[lr].mean()))


def findings(task: str, rows: Sequence[Row], choosing: int) -> Iterator[Row]:
    fresh = range(choosing + 1, 100)
    algorithms = [a for a in ALGORITHMS if any(row["algorithm"] == a for row in rows)]
    chosen = {a: best(rows, a, choosing) for a in algorithms}
    judged = {a: scores(rows, a, chosen[a], fresh) for a in algorithms}
    for algorithm in algorithms:
        each = {f"{lr:g}": scores(rows, algorithm, lr, range(1, choosing + 1)).tolist() for lr in RATES}
        found = {"scores_by_lr": each, "fresh_seeds": judged[algorithm].tolist()}
        yield {"of": task, "algorithm": algorithm, "best_lr": chosen[algorithm], **found}
    for one, other in (("gala", "a2c"), ("gala", "independent"), ("independent", "a2c")):
        x, y = (judged.get(name, np.array([])) for name in (one, other))
        if min(len(x), len(y)) > 1:
            difference = interval([[x], [y]], lambda a, b: iqm(a[0]) - iqm(b[0]))
            yield {
                "of": task,
                "finding": f"{one} 4 x 16 less {other}, each at its best rate, seeds that chose nothing",
                "difference": difference.estimate,
                "interval": [difference.low, difference.high],
                "probability_of_improvement": improvement([x], [y]),
                "not_worse_by_5_percent": non_inferior(difference, MARGIN * float(np.mean(y))),
            }


def table(rows: Sequence[Row]) -> str:
    """Mean scores of the seeds that choose, up to three, by task, algorithm and rate."""
    rows = [row for row in rows if row["words"] == GRID]
    lines = [
        f"| task | algorithm | {' | '.join(f'{lr:g}' for lr in RATES)} |",
        f"| --- | --- {'| ---: ' * len(RATES)}|",
    ]
    for task, algorithm in dict.fromkeys((row["task"], row["algorithm"]) for row in rows):
        mine = [row for row in rows if row["task"] == task]
        means = [scores(mine, algorithm, lr, range(1, 4)) for lr in RATES]
        lines.append(f"| {task} | {algorithm} | {' | '.join(f'{x.mean():.3g}' if len(x) else '' for x in means)} |")
    return "\n".join(lines)


def table_of_words(rows: Sequence[Row]) -> str:
    """All scores with other settings, by task and words."""
    lines = ["| task | algorithm | optim.lr | settings | mean | each seed |", "| --- | --- | ---: | --- | ---: | --- |"]
    cells: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for row in rows:
        if row["words"] != GRID:
            key = (row["task"], row["algorithm"], f"{row['lr']:g}", f"`{row['words']}`")
            cells.setdefault(key, []).append((row["seed"], row["score"]))
    for key, each in sorted(cells.items()):
        scores_by_seed = ", ".join(f"{score:.1f}" for _, score in sorted(each))
        lines.append(f"| {' | '.join(key)} | {np.mean([score for _, score in each]):.3g} | {scores_by_seed} |")
    return "\n".join(lines)


def conclude(kept: KeptRows) -> None:
    found = list[Row]()
    grid = [row for row in kept.rows if row["words"] == GRID]
    for task in dict.fromkeys(row["task"] for row in grid):
        rows = [row for row in grid if row["task"] == task]
        counts = [len(scores(rows, rows[0]["algorithm"], lr, range(100))) for lr in RATES]
        found += findings(task, rows, min(count for count in counts if count))
    kept.conclude(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, help="a directory for trainings; large")
    parser.add_argument("--tasks", default="minatar/breakout", help="presets, with commas between")
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS), help="with commas between")
    parser.add_argument("--rates", default=",".join(f"{lr:g}" for lr in RATES), help="with commas between")
    parser.add_argument("--words", default=GRID, help="settings in place of the preset's, in one word with spaces")
    parser.add_argument("--first-seed", type=int, default=1, help="where the seeds begin")
    parser.add_argument("--choosing", type=int, default=3, help="seeds that choose the rate")
    parser.add_argument("--fresh", type=int, default=5, help="seeds after them, which are compared")
    parser.add_argument("--judge", action="store_true", help="train nothing")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.table:
        rows = KeptRows(options.out, KEYS).rows
        print(table(rows), table_of_words(rows), sep="\n\n")
        return
    if not options.judge and options.studies is None:
        parser.error("give --studies, a directory for trainings")
    kept, words = KeptRows(options.out, KEYS), options.words
    algorithms, first = options.algorithms.split(","), options.first_seed
    for task in () if options.judge else options.tasks.split(","):
        seeds = range(first, first + options.choosing)
        for lr in map(float, options.rates.split(",")):
            kept.add_new(compare(options.studies, task, words, algorithms, lr, seeds))
        rows = [row for row in kept.rows if (row["task"], row["words"]) == (task, words)]
        for algorithm in algorithms if options.fresh else ():
            lr, more = best(rows, algorithm, options.choosing), range(first, seeds.stop + options.fresh)
            kept.add_new(compare(options.studies, task, words, [algorithm], lr, more))
    conclude(kept)


if __name__ == "__main__":
    main()
