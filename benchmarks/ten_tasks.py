"""Does GALA learn as well as A2C? Ten tasks at equal simulators and env_steps, by a test that was fixed beforehand.

    python benchmarks/ten_tasks.py --studies STUDIES --tasks mujoco/hopper classic/cartpole
    python benchmarks/ten_tasks.py --judge                     only the rows that are there already
    python benchmarks/ten_tasks.py --table                     what was measured

Stock presets with 64 simulators in all: A2C 1 x 64, the others 4 x 16. A training's score is the mean return of its
last policy in about a hundred episodes of sampled actions, for learners that average the one of their consensus. An
algorithm learns as well as A2C if the 95 % interval of the difference of interquartile means lies above minus 5 % of
the score range: from random actions to the bar in the preset, and where there is none to A2C's mean. Below five seeds
nothing is decided. It goes on where it was cut: what has a row is not trained again. --words tries other settings than
a preset's, beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from compared import bar_of, compared
from kept_rows import KeptRows, Row

from gala.experiments.compared import Comparison, Terms
from gala.experiments.scores import FEWEST, area_under, first_reached, interval, non_inferior
from gala.experiments.statistics import Interval, iqm

RESULTS = Path(__file__).parent / "results" / "ten_tasks.jsonl"
KEYS = ("task", "words", "algorithm", "seed")
ALGORITHMS, BASELINE = ("a2c", "allreduce", "independent", "gala", "slowmo-gala"), "a2c"
MINATAR = ("breakout", "space_invaders", "asterix", "freeway", "seaquest")
TASKS = {
    **{f"minatar/{game}": "2e6" for game in MINATAR},
    "classic/cartpole": "5e5",
    **{f"mujoco/{body}": "1e6" for body in ("inverted_double_pendulum", "halfcheetah", "hopper")},
    "atari/pong": "4e6",
}
"""Task -> env_steps over all learners."""
MARGIN = 0.05


def train(kept: KeptRows, studies: Path, task: str, words: str, algorithms: Sequence[str], seeds: range) -> None:
    """What has no row yet, seed by seed; a row for each training."""
    out = studies / "-".join([task.replace("/", "_"), *words.split()])
    for seed in seeds:
        if left := [name for name in algorithms if kept.lacks(task, words, name, seed)]:
            grid = [f"preset={task}", f"algos={','.join(left)}", f"first_seed={seed}", "seeds=1"]
            found = compared([*grid, f"steps={TASKS[task]}", "envs=64", *words.split()], out / f"{seed}")
            kept.add_new(row_of(task, words, each) for each in found)


def row_of(task: str, words: str, found: Row) -> Row:
    curve, policies, bar = found["curve"], found["evaluation"]["policies"]["sampled"], bar_of(task)
    row = {"task": task, "words": words, "algorithm": found["group"], "seed": found["seed"]}
    row |= {"score": found["evaluation"]["score"]["sampled"], "random": found["evaluation"]["random_return"]}
    if "consensus" in policies:
        row["learners"] = [p["return_mean"] for name, p in policies.items() if name != "consensus"]
    row["area"] = area_under(curve["env_steps"], curve["return"], curve["env_steps"][-1])
    if bar is not None:
        reached = {axis: first_reached(curve[axis], curve["return"], bar) for axis in ("env_steps", "seconds")}
        row |= {f"{axis}_to_bar": x if np.isfinite(x) else None for axis, x in reached.items()}
    return row | {key: found[key] for key in ("env_steps", "seconds", "command")}


def verdict(rows: Sequence[Row], task: str, words: str, algorithm: str) -> Row | None:
    """An algorithm against A2C with the same settings; None where one of them is missing."""
    ours, base = (_of(rows, task, words, name) for name in (algorithm, BASELINE))
    if not ours or not base:
        return None
    bar = bar_of(task)
    comparison = Comparison([_of_compare(row) for row in (*ours, *base)], Terms(BASELINE, "sampled", bar, MARGIN))
    x, y = comparison.scores(algorithm), comparison.scores(BASELINE)
    low, high, _ = comparison.score_range()
    margin = MARGIN * (high - low)
    difference = interval([[x], [y]], lambda a, b: iqm(a[0]) - iqm(b[0]))
    enough = min(len(x), len(y)) >= FEWEST
    found: Row = {"finding": "learns as well as a2c", "task": task, "words": words, "algorithm": algorithm}
    found |= {"seeds": [len(x), len(y)], "iqm": [iqm(x), iqm(y)], "difference": _listed(difference), "margin": margin}
    found["verdict"] = non_inferior(difference, margin) if enough else "undecided"
    if all("learners" in row for row in ours):
        gained = np.array([row["score"] - np.mean(row["learners"]) for row in ours])
        found["consensus_less_learners"] = _listed(interval([[gained]], lambda a: float(np.mean(a[0]))))
    if bar is not None:
        found["seeds_at_bar"] = [int((scores >= bar).sum()) for scores in (x, y)]
    found["median_s"] = [float(np.median([row["seconds"] for row in group])) for group in (ours, base)]
    return found


def _of_compare(row: Row) -> Row:
    """What `gala compare` knew it by, without its curve."""
    judged = {"score": {"sampled": row["score"]}, "random_return": row["random"]}
    return {"group": row["algorithm"], "evaluation": judged, "curve": {"env_steps": [], "seconds": []}}


def _of(rows: Sequence[Row], task: str, words: str, algorithm: str) -> list[Row]:
    return [row for row in rows if (row["task"], row["words"], row["algorithm"]) == (task, words, algorithm)]


def _listed(found: Interval) -> list[float | None]:
    """[low, estimate, high]; None where it is not bounded."""
    return [float(x) if np.isfinite(x) else None for x in found]


def findings(rows: Sequence[Row]) -> Iterator[Row]:
    settings = dict.fromkeys(row["words"] for row in rows)
    others = [name for name in ALGORITHMS if name != BASELINE]
    decided = list[dict[str, Any]]()
    for words, task, algorithm in product(settings, TASKS, others):
        if found := verdict(rows, task, words, algorithm):
            decided.append(found)
            yield found
    for words, algorithm in product(settings, others):
        mine = [found for found in decided if (found["words"], found["algorithm"]) == (words, algorithm)]
        if mine:
            counts = {kind: sum(f["verdict"] == kind for f in mine) for kind in ("shown", "refuted", "undecided")}
            yield {"finding": f"{algorithm} learns as well as a2c", "words": words, "tasks": len(mine), **counts}


def table(rows: Sequence[Row], algorithm: str = "gala") -> str:
    """One line for each task that has been run with the stock preset."""
    lines = ["| task | env_steps | seeds | a2c | " + algorithm + " | difference of IQMs | margin | learns as well |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | --- | ---: | --- |")
    for task, steps in TASKS.items():
        if found := verdict(rows, task, "", algorithm):
            ours, base = found["iqm"]
            low, middle, high = (f"{x:,.4g}" if x is not None else "?" for x in found["difference"])
            figures = [task, f"{float(steps):,.0f}", str(min(found["seeds"])), f"{base:,.4g}", f"{ours:,.4g}"]
            figures += [f"{middle} [{low}, {high}]", f"{found['margin']:,.3g}", found["verdict"]]
            lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


def mixing_table(rows: Sequence[Row]) -> str:
    """What gossip is worth beside learners alone: interquartile means of all algorithms, with their seeds."""
    lines = [f"| task | {' | '.join(ALGORITHMS)} | gala less independent |"]
    lines.append(f"| --- {'| ---: ' * len(ALGORITHMS)}| --- |")
    for task in TASKS:
        scores = {name: np.array([row["score"] for row in _of(rows, task, "", name)]) for name in ALGORITHMS}
        if not all(map(len, scores.values())):
            continue
        cells = [f"{iqm(x):.3g} ({len(x)})" for x in scores.values()]
        gained = interval([[scores["gala"]], [scores["independent"]]], lambda a, b: iqm(a[0]) - iqm(b[0]))
        cells.append(f"{gained.estimate:.3g} [{gained.low:.3g}, {gained.high:.3g}]")
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, help="a directory for trainings; large")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=1, help="where they begin")
    parser.add_argument("--words", default="", help="settings in place of the preset's, in one word with spaces")
    parser.add_argument("--judge", action="store_true", help="train nothing")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.table:
        rows = KeptRows(options.out, KEYS).rows
        print(table(rows), mixing_table(rows), sep="\n\n")
        return
    if not options.judge and options.studies is None:
        parser.error("give --studies, a directory for trainings")
    kept, seeds = KeptRows(options.out, KEYS), range(options.first_seed, options.first_seed + options.seeds)
    for task in () if options.judge else options.tasks:
        train(kept, options.studies, task, options.words, options.algorithms, seeds)
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
