"""A policy that was trained here, as the diagnostics see it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from gala.diagnostics.overfitting.policies import Decision, Noise, sample
from gala.models.actor_critic import ActorCritic
from gala.rl.normalise import ObsNormalizer


class TorchPolicy:
    """A trained network with its observation normaliser, which is never updated here. ``greedy`` takes modes.

    ``value_scale``: what V is multiplied by to be in units of the environment's rewards; None: it has no such units,
    and decisions have no value.
    """

    def __init__(
        self,
        network: ActorCritic,
        normalizer: ObsNormalizer | None,
        space: gym.Space,
        greedy: bool,
        value_scale: float | None = 1.0,
    ) -> None:
        self.value_scale = value_scale
        self.network, self.normalizer, self.space, self.greedy = network.eval(), normalizer, space, greedy

    @torch.no_grad()
    def act(self, obs: NDArray, state: Any, first: NDArray, noise: Noise) -> Decision:
        out = self.outputs(obs, state, first)
        params = out.params.cpu().numpy()
        mode = self.network.act(out.params, greedy=True).cpu().numpy()
        action = mode if self.greedy else sample(self.space, params, noise)
        entropy = self.network.distribution.entropy(out.params).cpu().numpy()
        value = None if self.value_scale is None else out.value.cpu().numpy() * self.value_scale
        return Decision(action, out.state, value, entropy, params)

    def outputs(self, obs: NDArray, state: Any, first: NDArray) -> Any:
        """The network's outputs for ``obs`` as the environment gives it."""
        inputs = obs if self.normalizer is None else self.normalizer(obs)
        device = next(self.network.parameters()).device
        tensor = torch.from_numpy(np.ascontiguousarray(inputs)).to(device)
        state = self.network.initial_state(len(obs), device) if state is None else state
        return self.network(tensor, state, torch.from_numpy(np.asarray(first, bool)).to(device))

    @torch.no_grad()
    def features(self, obs: NDArray) -> NDArray:
        """What the policy head reads, ``[N, F]``, of a network without recurrence."""
        inputs = obs if self.normalizer is None else self.normalizer(obs)
        return self.network.encoder(self.network.seen(torch.from_numpy(np.ascontiguousarray(inputs)))).cpu().numpy()
