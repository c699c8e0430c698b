"""Train on an environment of your own.

    python examples/custom_environment.py

Any class or function that makes a ``gymnasium.Env`` will do. Learner processes import it by its name, so that it may
also stand in a file of its own: gala train env.id=custom_environment:Corridor
"""

import sys

import gymnasium as gym
import numpy as np

import gala


class Corridor(gym.Env):
    """Seven cells in a row; each step costs 0.1, and the right end is worth 1. The best return is 0.5."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)  # left, right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.steps = 1, 0
        return self.observe(), {}

    def step(self, action):
        self.cell = max(0, self.cell + (1 if action == 1 else -1))
        self.steps += 1
        at_end = self.cell == 6
        return self.observe(), float(at_end) - 0.1, at_end, self.steps == 50, {}

    def observe(self):
        return np.array([self.cell / 6], np.float32)


def main(steps=40_000):
    gala.register(env={"corridor": Corridor})
    run = gala.train(env={"id": "corridor"}, learners=2, steps=steps, optim={"lr": 3e-3})
    print(f"return {run.evaluate(episodes=10, mode='greedy').return_mean:.2f} of 0.50")
    print(f"what the run has recorded: env.id={run.config.env.id}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
