"""MinAtar for the peers: the games as their package has them, all in one process, and the network of its paper."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from minatar.gym import BaseEnv
from torch import Tensor, nn
from worker import MINATAR

FEATURES = 128


def make(task: str) -> gymnasium.Env[Any, Any]:
    """``minatar/GAME`` with its own actions only, sticky with probability 0.1."""
    return BaseEnv(MINATAR[task], use_minimal_action_set=True)


class Games:
    """``num_envs`` of them behind what EnvPool's batch offers of its own; an ended episode begins a step later, too."""

    def __init__(self, task: str, num_envs: int, seed: int) -> None:
        self._games, self._seed = SyncVectorEnv([partial(make, task)] * num_envs), seed
        self.observation_space = self._games.single_observation_space
        self.action_space = self._games.single_action_space

    def reset(self) -> tuple[np.ndarray, Any]:
        return self._games.reset(seed=self._seed)

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        return self._games.step(actions)


class Network(nn.Module):
    """Observations [B, 10, 10, C] to features [B, 128]: 16 filters of 3x3 and a dense layer (arXiv 1903.03176)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(16 * 8 * 8, FEATURES), nn.ReLU()),
        )

    def forward(self, obs: Tensor) -> Tensor:
        return self.layers(obs.permute(0, 3, 1, 2).float())  # type: ignore[no-any-return]
