"""An auxiliary head that predicts what an action leads to: its gradient makes features implicitly model-based.

As in the implicit model-based variants of arXiv 1806.07937, which found that learning the dynamics adds to the bias of
few training MDPs.
"""

from __future__ import annotations

import math
from typing import cast

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gala.models.distributions import policy_range
from gala.models.encoders import unit_scale

_HIDDEN = 128


class Dynamics(nn.Module):
    """(features [N, F], action [N, ...]) -> the next observation, flattened, and the reward."""

    action_centre: Tensor
    action_scale: Tensor

    def __init__(self, num_features: int, obs_space: gym.spaces.Box, action_space: gym.Space) -> None:
        super().__init__()
        self.choices = int(action_space.n) if isinstance(action_space, gym.spaces.Discrete) else 0
        width = self.choices or math.prod(cast(tuple[int, ...], action_space.shape))
        self.scale = unit_scale(obs_space)
        outputs = math.prod(obs_space.shape) + 1
        self.continuous = isinstance(action_space, gym.spaces.Box)
        if isinstance(action_space, gym.spaces.Box):
            for name, values in zip(("action_centre", "action_scale"), policy_range(action_space), strict=True):
                self.register_buffer(name, values, persistent=False)
        self.layers = nn.Sequential(nn.Linear(num_features + width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, outputs))

    def forward(self, features: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """Squared error of each row, mean over the numbers of an observation plus that of the reward: ``[N]``."""
        told = F.one_hot(action, self.choices).float() if self.choices else action.float().flatten(1)
        if self.continuous:  # in the policy's unit, whatever the bounds
            told = (told - self.action_centre) / self.action_scale
        predicted = self.layers(torch.cat([features, told], -1))
        target = next_obs.float().flatten(1)
        if not next_obs.is_floating_point():  # as the image encoders see them
            target = target * self.scale
        return ((predicted[:, :-1] - target) ** 2).mean(-1) + (predicted[:, -1] - reward) ** 2
