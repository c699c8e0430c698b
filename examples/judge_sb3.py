"""Judge policies that were trained elsewhere: PPO of Stable-Baselines3, and two whose verdict is known beforehand.

    python examples/judge_sb3.py

Half an hour on one core, with stable-baselines3; 20000 3 behind it trains three PPOs of 20,000 env_steps, and 0 none.
Ten mazes to train on, 200 others to judge on. ``solver`` looks for the best way through what it sees: NO-GAP. ``table``
knows the training mazes by heart and nothing else: OVERFIT. And PPO?
"""

import sys
from pathlib import Path

import numpy as np
from gala_envs import as_gymnasium
from gala_envs.contexts import ContextSet
from gala_envs.families.maze import AGENT, BAD, GOOD, KEY, WALL, Level, solve

from gala.cli import main as gala

MAZES = ["size=5", "bads=1", "limit=50", "train=10", "test=200"]


def solver(obs, state, rng):
    """The shortest best way, kept as state; obs is 0/1 [5, size, size], one picture for each kind of thing."""
    if state:
        return state[0], state[1:]
    start, key, good, bad = (obs[kind].ravel().nonzero()[0] for kind in (AGENT, KEY, GOOD, BAD))
    values = np.repeat([1.0, -1.0], [len(good), len(bad)])
    way = solve(Level(obs[WALL] > 0, int(start[0]), int(key[0]), np.concatenate([good, bad]), values, values > 0, 50))[
        1
    ]
    return (way[0], way[1:]) if way else (0, [])


def table(seed):
    """The solver's actions in the training mazes; elsewhere, whatever comes."""
    known, mazes = {}, ContextSet.read("sets/train.json")
    env = as_gymnasium(mazes)
    for maze in mazes.contexts:
        (obs, _), over, way = env.reset(options={"context": maze.uid}), [False], []
        while not any(over):
            action, way = solver(obs, way, None)
            known[obs.tobytes()] = action
            obs, _, *over, _ = env.step(action)

    def act(obs, state, rng):
        return known.get(obs.tobytes(), int(rng.integers(5)))

    return act


def train_ppo(seed, steps):
    """Eight copies of the training set's environment; the log says what was played."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    mazes = ContextSet.read("sets/train.json")
    envs = make_vec_env(lambda: as_gymnasium(mazes, log="played.jsonl"), 8, seed=seed)
    PPO("MlpPolicy", envs, n_steps=128, ent_coef=0.01, seed=seed, device="cpu").learn(steps).save(f"ppo{seed}.zip")


def judge(name, policy, *words):
    print(f"\n{name}", flush=True)
    gala(["overfit", "eval", f"policy={policy}", "sets=sets", f"out=studies/{name}", *words])


def main(steps=300_000, runs=5):
    sys.path.insert(0, str(Path(__file__).parent))
    if not Path("sets").exists():
        gala(["overfit", "split", "maze", *MAZES, "out=sets"])
    judge("solver", "judge_sb3:solver")
    judge("table", "judge_sb3:table?seed={run}", "repeats=3")
    if steps:
        for seed in range(runs):
            train_ppo(seed, steps)
        judge("ppo", "sb3:ppo{run}.zip", f"repeats={runs}", "played=played.jsonl")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
