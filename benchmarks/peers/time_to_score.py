"""Seconds and env_steps to a score: gala's stock presets beside what others come with for the same task.

    python benchmarks/peers/time_to_score.py            hours on two idle cores; finished rows are kept
    python benchmarks/peers/time_to_score.py --tasks cartpole acrobot              a quarter of an hour
    python benchmarks/peers/time_to_score.py --table    what was measured

Everybody with own settings, number of simulators and length of training, which schedules follow: gala with the stock
preset, Stable-Baselines3 with its zoo's, PPO with those of CleanRL's ppo.py and ppo_atari.py; for MinAtar, that they do
not know, theirs of Atari. A training ends when the mean of the last hundred training episodes reaches the bar; the
seconds begin with the process, so that imports count. One training at a time, systems in turns. Per system: median and
range over seeds, and the ratios to gala's medians in bootstrapped intervals.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import venvs
from contest import HERE, KeptRows, Row, Training, fill, run
from ratios import ratio_of_medians

from gala.processes.resources import available_cores

GAMES = {"asterix": 15.0, "breakout": 6.0, "freeway": 30.0, "seaquest": 3.0, "space_invaders": 50.0}
"""Half of what gala's A2C comes to after 2M env_steps of MinAtar (ten_tasks.py), rounded, and fixed before any other
was run; the other bars are the scores at which a task counts as solved."""
MINATAR = {f"minatar/{game}": bar for game, bar in GAMES.items()}
BARS = {"cartpole": 475.0, "acrobot": -100.0, "pong": 18.0} | MINATAR


class Setup(NamedTuple):
    """``budget``: env_steps in all. ``learners``: of gala."""

    num_envs: int
    budget: int
    learners: int = 0


class Contestant(NamedTuple):
    """``worker``: a name of compare.SYSTEMS; ``setups``: by task."""

    worker: str
    setups: dict[str, Setup]
    words: tuple[str, ...] = ()


CONTESTANTS = {
    "gala": Contestant(
        "gala",
        {"cartpole": Setup(8, 200_000, 2), "acrobot": Setup(32, 500_000, 2), "pong": Setup(64, 10_000_000, 4)}
        | dict.fromkeys(MINATAR, Setup(64, 2_500_000, 4)),
        ("--settings=algo=gala",),
    ),
    "gala-a2c": Contestant(
        "gala",
        {"cartpole": Setup(4, 200_000, 1), "acrobot": Setup(16, 500_000, 1), "pong": Setup(16, 10_000_000, 1)}
        | dict.fromkeys(MINATAR, Setup(64, 2_500_000, 1)),
        ("--settings=algo=a2c",),
    ),
    "sb3-a2c": Contestant("sb3-a2c", {"cartpole": Setup(8, 500_000), "acrobot": Setup(16, 500_000)}),
    "sb3-ppo": Contestant(
        "sb3-ppo",
        {"cartpole": Setup(8, 100_000), "acrobot": Setup(16, 1_000_000), "pong": Setup(8, 10_000_000)}
        | dict.fromkeys(MINATAR, Setup(8, 2_500_000)),
    ),
    "cleanrl-ppo": Contestant(
        "cleanrl-ppo",
        {"cartpole": Setup(4, 500_000), "acrobot": Setup(4, 500_000), "pong": Setup(8, 10_000_000)}
        | dict.fromkeys(MINATAR, Setup(8, 2_500_000)),
    ),
}


def measure(task: str, name: str, seed: int, root: Path) -> Row:
    """One training. ``seconds`` and ``env_steps`` are None where the bar was not reached."""
    contestant = CONTESTANTS[name]
    num_envs, budget, learners = contestant.setups[task]
    words = (*contestant.words, "--learners", str(learners)) if learners else contestant.words
    training = Training(contestant.worker, words, task, num_envs, budget, seed)
    cores = available_cores()
    found, began, facts = run(training, cores, root, lambda peer: peer.reach(BARS[task]))
    row: Row = {"task": task, "system": name, "seed": seed, "bar": BARS[task], "num_envs": num_envs, "budget": budget}
    row |= {"seconds": found and found.t - began, "env_steps": found and found.env_steps}
    return row | facts | {"cores": cores}


def findings(rows: Sequence[Row]) -> Iterator[Row]:
    """Medians over seeds, where a training that did not reach the bar took for ever."""
    for task in BARS:
        taken = {name: _taken(rows, task, name, "seconds") for name in CONTESTANTS}
        for name, seconds in taken.items():
            if not len(seconds):
                continue
            steps = _taken(rows, task, name, "env_steps")
            row: Row = {"finding": f"{task}, {name}", "reached": f"{np.isfinite(seconds).sum()} of {len(seconds)}"}
            row |= {
                "median_s": _known(np.median(seconds)),
                "range_s": [_known(x) for x in (seconds.min(), seconds.max())],
            }
            row["median_env_steps"] = _known(np.median(steps))
            for us in ("gala", "gala-a2c"):
                if len(ours := taken[us]) and not name.startswith("gala"):
                    row[f"seconds_over_{us}"] = [_known(x) for x in ratio_of_medians(seconds, ours)]
            yield row


def table(rows: Sequence[Row], task: str) -> str:
    """Medians over seeds with their ranges, and how many times the seconds of gala's A2C the others take."""
    lines = ["| | seconds | env_steps | A2C of gala is so many times faster |", "| --- | --- | --- | --- |"]
    ours = _taken(rows, task, "gala-a2c", "seconds")
    for name in (name for name in CONTESTANTS if any((row["task"], row["system"]) == (task, name) for row in rows)):
        seconds, steps = (_taken(rows, task, name, key) for key in ("seconds", "env_steps"))
        reached = int(np.isfinite(seconds).sum())
        if not reached:
            lines.append(f"| {name} | never (0 of {len(seconds)} reached it) | | |")
            continue
        worst = f"{seconds.max():.1f}" if reached == len(seconds) else f"never ({reached} of {len(seconds)} reached it)"
        times = [] if name.startswith("gala") else ratio_of_medians(seconds, ours)
        ratio = "{1:.2f} [{0:.2f}, {2:.2f}]".format(*times) if times else ""
        taken = f"{np.median(seconds):.1f}, {seconds.min():.1f} to {worst}"
        lines.append(f"| {name} | {taken} | {np.median(steps):,.0f} | {ratio} |")
    return "\n".join(lines)


def _taken(rows: Sequence[Row], task: str, name: str, key: str) -> np.ndarray:
    found = [row[key] for row in rows if (row["task"], row["system"]) == (task, name)]
    return np.array([math.inf if x is None else x for x in found], float)


def _known(x: float) -> float | None:
    """None for what is not finite, which JSON does not know."""
    return float(x) if math.isfinite(x) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=BARS, default=list(BARS))
    parser.add_argument("--systems", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1 on")
    parser.add_argument("--venvs", type=Path, default=venvs.DEFAULT)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "time_to_score.jsonl")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    options = parser.parse_args()
    kept = KeptRows(options.out, ("task", "system", "seed"))
    if options.table:
        print(*(table(kept.rows, task) for task in BARS if any(row["task"] == task for row in kept.rows)), sep="\n\n")
        return
    cells = ((t, s, seed) for t, seed, s in product(options.tasks, range(1, options.seeds + 1), options.systems))
    known = (cell for cell in cells if cell[0] in CONTESTANTS[cell[1]].setups)
    fill(kept, known, lambda task, name, seed: measure(task, name, seed, options.venvs))
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
