"""An encoder, an environment, a topology and an optimiser of a user's own, for the tests."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from gala.gossip import Topology, uniform


class TinyNet(nn.Module):
    """One dense layer."""

    def __init__(self, space: gym.spaces.Box, hidden: Any, activation: str) -> None:
        super().__init__()
        self.num_features = 5
        self.layer = nn.Linear(space.shape[0], 5)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(obs))


class WrongWidth(TinyNet):
    """Says 7 and makes 5."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.num_features = 7


class Ten(gym.Env):
    """Ten decisions, each worth the action, 0 to 2."""

    observation_space = gym.spaces.Box(0, 10, (1,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.age += 1
        return np.full(1, self.age, np.float32), float(action), self.age == 10, False, {}


def no_env() -> str:
    return "not an environment"


BACKWARDS = Topology("to the one before", uniform(lambda rank, t, n: [(rank - 1) % n]))
GREEDY = Topology("gives all away", lambda rank, t, n: [((rank + 1) % n, 1.0)])
TWO_PARTS = Topology("0 and 1 alone", uniform(lambda rank, t, n: [rank ^ 1] if rank < 2 else [0]))


def no_optimizer(params, lr):
    return {"params": params, "lr": lr}


def nesterov(params: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True)
