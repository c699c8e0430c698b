"""Train with a network of your own between the observations and the policy.

    python examples/custom_encoder.py

An encoder is called with (obs_space, hidden, activation) and makes a module with ``num_features``, which maps a batch
``[N, ...]`` of observations to features ``[N, num_features]``. The heads, and a GRU if you ask for one, come on top.
"""

import sys

import torch
from torch import nn

import gala


class FourierFeatures(nn.Module):
    """Sines and cosines of random directions of the observation, and one dense layer."""

    def __init__(self, obs_space, hidden, activation):
        super().__init__()
        self.num_features = hidden[-1]
        self.directions = nn.Linear(obs_space.shape[0], 32)
        self.dense = nn.Sequential(nn.Linear(64, self.num_features), nn.ReLU())

    def forward(self, obs):
        angles = self.directions(obs)
        return self.dense(torch.cat([angles.sin(), angles.cos()], -1))


def main(steps=60_000):
    model = {"encoder": FourierFeatures, "hidden": (48,)}
    run = gala.train("classic/cartpole", learners=2, steps=steps, model=model)
    agent = run.load()
    print(agent)
    print(f"return {run.evaluate(episodes=10).return_mean:.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
