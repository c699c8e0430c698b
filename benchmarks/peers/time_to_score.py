"""Seconds and env_steps to a score: gala's stock presets beside what others come with for the same task.

    python benchmarks/peers/time_to_score.py            a quarter of an hour on two idle cores; finished rows are kept
    python benchmarks/peers/time_to_score.py --tasks acrobot --systems gala sb3-ppo

Everybody with own settings, number of simulators and length of training, which schedules follow: gala with the stock
preset, Stable-Baselines3 with its zoo's, PPO with those of CleanRL's ppo.py. A training ends when the mean of the last
hundred training episodes reaches the bar, the score at which the task counts as solved; the seconds begin with the
process, so that imports count. One training at a time, systems in turns. Per system: median and range over seeds, and
the ratios to gala's medians in bootstrapped intervals.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import venvs
from compare import SYSTEMS
from peer import Peer, PeerFailed

from gala.processes.resources import available_cores

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from kept_rows import KeptRows  # noqa: E402
from ratios import ratio_of_medians  # noqa: E402

Row = dict[str, Any]
BARS = {"cartpole": 475.0, "acrobot": -100.0}


class Contestant(NamedTuple):
    """``worker``: a name of compare.SYSTEMS; ``settings``: task -> (simulators, env_steps in all)."""

    worker: str
    settings: dict[str, tuple[int, int]]
    words: tuple[str, ...] = ()


CONTESTANTS = {
    "gala": Contestant(
        "gala", {"cartpole": (8, 200_000), "acrobot": (32, 500_000)}, ("--learners", "2", "--settings=algo=gala")
    ),
    "gala-a2c": Contestant(
        "gala", {"cartpole": (4, 200_000), "acrobot": (16, 500_000)}, ("--learners", "1", "--settings=algo=a2c")
    ),
    "sb3-a2c": Contestant("sb3-a2c", {"cartpole": (8, 500_000), "acrobot": (16, 500_000)}),
    "sb3-ppo": Contestant("sb3-ppo", {"cartpole": (8, 100_000), "acrobot": (16, 1_000_000)}),
    "cleanrl-ppo": Contestant("cleanrl-ppo", {"cartpole": (4, 500_000), "acrobot": (4, 500_000)}),
}


def measure(name: str, task: str, seed: int, root: Path) -> Row:
    """One training. ``seconds`` and ``env_steps`` are None where the bar was not reached."""
    contestant = CONTESTANTS[name]
    system, (num_envs, budget) = SYSTEMS[contestant.worker], contestant.settings[task]
    python = str(venvs.ensure(system.venv, root)) if system.venv else sys.executable
    words = [*system.words, *contestant.words, "--budget", str(budget), "--seed", str(seed)]
    peer = Peer(name, [python, str(HERE / system.worker), *words])
    began = time.monotonic()
    try:
        peer.start(task, num_envs, available_cores())
        found = peer.reach(BARS[task])
    finally:
        peer.kill()
    row: Row = {"task": task, "system": name, "seed": seed, "bar": BARS[task], "num_envs": num_envs, "budget": budget}
    versions = venvs.installed(system.venv, Path(python)) if system.venv else {}
    return row | {
        "seconds": found and found.t - began,
        "env_steps": found and found.env_steps,
        "took_s": time.monotonic() - began,
        "versions": versions,
    }


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
    options = parser.parse_args()
    kept = KeptRows(options.out, ("task", "system", "seed"))
    for task in options.tasks:
        for seed in range(1, options.seeds + 1):
            for name in options.systems:
                if kept.lacks(task, name, seed):
                    try:
                        kept.add(measure(name, task, seed, options.venvs))
                    except (PeerFailed, venvs.InstallFailed) as error:
                        print(error, file=sys.stderr)
    kept.conclude(findings(kept.rows))


if __name__ == "__main__":
    main()
