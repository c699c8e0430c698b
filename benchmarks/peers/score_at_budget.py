"""What a million env_steps of MuJoCo come to: gala with its stock presets beside Stable-Baselines3's A2C.

    python benchmarks/peers/score_at_budget.py          two hours of one core; finished rows are kept
    python benchmarks/peers/score_at_budget.py --table  what was measured

Everybody with own settings: gala with the stock preset, as A2C of one learner with 16 simulators and as GALA of four
with 4, that also at A2C's learning rate in place of twice it; Stable-Baselines3 with what its zoo has for A2C on
MuJoCo, the library's defaults, VecNormalize and one simulator. The score is the mean return of the last hundred
training episodes, so with exploration. One training at a time on one core. Per system: scores of all seeds, and the
differences from gala's in bootstrapped intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import venvs
from contest import HERE, KeptRows, Row, Training, fill, run
from peer import Peer

from gala.experiments.scores import interval
from gala.experiments.statistics import iqm

TASKS = ("halfcheetah", "hopper", "inverted_double_pendulum")
BUDGET = 1_000_000


class Contestant(NamedTuple):
    """``worker``: a name of compare.SYSTEMS."""

    worker: str
    num_envs: int
    words: tuple[str, ...] = ()


CONTESTANTS = {
    "gala-a2c": Contestant("gala", 16, ("--learners", "1", "--settings=algo=a2c")),
    "gala": Contestant("gala", 16, ("--learners", "4", "--settings=algo=gala")),
    "gala, A2C's rate": Contestant("gala", 16, ("--learners", "4", "--settings=algo=gala gossip.lr_scaling=none")),
    "sb3-a2c": Contestant("sb3-a2c", 1),
}


def measure(task: str, name: str, seed: int, root: Path) -> Row:
    worker, num_envs, words = CONTESTANTS[name]
    last, _, facts = run(Training(worker, words, task, num_envs, BUDGET, seed), 1, root, Peer.last)
    row: Row = {"task": task, "system": name, "seed": seed, "num_envs": num_envs}
    return row | {"score": last.mean_return, "env_steps": last.env_steps} | facts


def findings(rows: Sequence[Row]) -> Iterator[Row]:
    for task in TASKS:
        scores = {name: _scores(rows, task, name) for name in CONTESTANTS}
        for name, found in scores.items():
            if not len(found):
                continue
            row: Row = {"finding": f"{task}, {name}", "scores": np.sort(found).round(1).tolist(), "iqm": iqm(found)}
            for us in ("gala-a2c", "gala"):
                if name != us and min(len(found), len(scores[us])) > 1:
                    less = interval([[scores[us]], [found]], lambda a, b: iqm(a[0]) - iqm(b[0]))
                    row[f"{us}_less_it"] = [float(x) for x in less]
            yield row


def _scores(rows: Sequence[Row], task: str, name: str) -> np.ndarray:
    return np.array([row["score"] for row in rows if (row["task"], row["system"]) == (task, name)], float)


def table(rows: Sequence[Row]) -> str:
    """The scores of all seeds of what has been run, from the lowest on."""
    names = [name for name in CONTESTANTS if any(row["system"] == name for row in rows)]
    lines = [f"| task | {' | '.join(names)} |", f"| --- {'| --- ' * len(names)}|"]
    for task in TASKS:
        found = [np.sort(_scores(rows, task, name)) for name in names]
        lines.append(f"| {task} | {' | '.join(', '.join(f'{x:,.0f}' for x in scores) for scores in found)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--systems", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1 on")
    parser.add_argument("--venvs", type=Path, default=venvs.DEFAULT)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "score_at_budget.jsonl")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    options = parser.parse_args()
    kept = KeptRows(options.out, ("task", "system", "seed"))
    if options.table:
        print(table(kept.rows))
        return
    cells = ((t, s, seed) for seed, t, s in product(range(1, options.seeds + 1), options.tasks, options.systems))
    fill(kept, cells, lambda task, name, seed: measure(task, name, seed, options.venvs))
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
