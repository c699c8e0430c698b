"""What the workers share: their command line, the cores they may use, and how they report. Standard library only."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time

REPORTS_PER_S = 20
MINATAR = {f"minatar/{game}": game for game in ("asterix", "breakout", "freeway", "seaquest", "space_invaders")}
TASKS = ("pong", "halfcheetah", "cartpole", "acrobot", "hopper", "inverted_double_pendulum", *MINATAR)


def options(*extra: str) -> argparse.Namespace:
    """The command line of every worker; ``extra`` are further required words, each ``--NAME VALUE``. Confines this
    process, and whatever it will start, to the first ``--cores`` cores that it may use."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--num-envs", type=int, required=True)
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variant", default="")
    parser.add_argument("--budget", type=int, default=0, help="env_steps after which it ends; 0 trains until killed")
    for name in extra:
        parser.add_argument(name, required=True)
    found = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: found.cores])
    return found


def steps_per_env(batch: int, num_envs: int, floor: int = 5) -> int:
    """Length of a rollout that keeps a reference's batch with another number of simulators: its learning rate, epochs
    and minibatches belong to that batch."""
    return max(floor, batch // num_envs)


class Reporter:
    """Prints ``{"t": seconds of the monotonic clock, "env_steps": N}`` when N has risen, at most 20 lines a second,
    with ``"mean_return"`` of the last hundred episodes where that is known.

    Each N is exact at its t, also when lines before it were left out. Report what has been learned from, not what has
    been collected: rates between two reports are then of whole iterations.
    """

    def __init__(self) -> None:
        self._steps, self._time = 0, 0.0

    def __call__(self, env_steps: int, t: float | None = None, mean_return: float = math.nan) -> None:
        t = time.monotonic() if t is None else t
        if env_steps <= self._steps or t < self._time + 1 / REPORTS_PER_S:
            return
        self._steps, self._time = env_steps, t
        line = {"t": t, "env_steps": env_steps}
        if math.isfinite(mean_return):
            line["mean_return"] = float(mean_return)
        print(json.dumps(line), file=sys.__stdout__, flush=True)
