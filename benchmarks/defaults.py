"""Do the settings that an environment without a preset gets learn anything? Beside plain defaults (``preset=none``).

    python benchmarks/defaults.py                        all tasks, three seeds, about 20 minutes; resumable
    python benchmarks/defaults.py --tasks Taxi-v4 --seeds 1

None of these tasks chose the settings of ``any/_vector``: they were written down before, and are the same for all. Each
training is of ``--steps`` env_steps by one learner, judged by 100 greedy episodes of its last checkpoint beside as many
of a random policy; greedy episodes of a task without a limit are cut off after 1,000 decisions. One
JSON line a training, in benchmarks/results/defaults.jsonl; ``--table`` prints them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from gala.bench.machine import machine_facts
from gala.runs.units import number

TASKS = (
    *("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0"),
    *("FrozenLake-v1", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1", "HumanoidStandup-v5"),
)
PRESETS = ("any/_vector", "none")
EPISODES, LIMIT = 100, 1000
RESULTS = Path(__file__).parent / "results" / "defaults.jsonl"


def random_return(task: str) -> float:
    """Mean return of uniformly random actions over ``EPISODES`` episodes."""
    env, returns = gym.make(task), []
    env.action_space.seed(0)
    for episode in range(EPISODES):
        env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def gala(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "gala", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"gala {' '.join(words)}:\n{done.stderr}")
    return done.stdout


def train(task: str, preset: str, seed: int, steps: float) -> dict[str, Any]:
    words = [f"env.id={task}", f"preset={preset}", f"steps={steps:g}", f"seed={seed}", "torch_threads=1"]
    with tempfile.TemporaryDirectory() as folder:
        gala("train", *words, f"run={folder}/run", "log.panel=off", "log.tensorboard=false")
        limit = [] if gym.spec(task).max_episode_steps else [f"env.max_episode_steps={LIMIT}"]
        result = json.loads(gala("eval", f"{folder}/run", f"episodes={EPISODES}", "mode=greedy", "--json", *limit))
    row = {"task": task, "preset": preset, "seed": seed, "command": f"gala train {' '.join(words)}"}
    return row | {"return": result["return_mean"], "random": random_return(task), "machine": machine_facts()}


def table(rows: list[dict[str, Any]]) -> str:
    """Returns by task, as `docs/evidence.md` has them."""
    lines = ["| task | random | without a preset | `preset=none` |", "| --- | ---: | ---: | ---: |"]
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        cells = [", ".join(number(r["return"]) for r in mine if r["preset"] == preset) for preset in PRESETS]
        lines.append(f"| {task} | {number(mine[0]['random'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3))
    parser.add_argument("--steps", type=float, default=2e5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    if given.table:
        print(table(rows))
        return
    done = {(row["task"], row["preset"], row["seed"]) for row in rows}
    for seed in given.seeds:
        for task in given.tasks:
            for preset in PRESETS:
                if (task, preset, seed) in done:
                    continue
                row = train(task, preset, seed, given.steps)
                with given.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{task} {preset} seed {seed}: {row['return']:.4g} (random {row['random']:.4g})", flush=True)


if __name__ == "__main__":
    main()
