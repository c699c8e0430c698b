"""The policy and its value function in one module, with or without a GRU. It knows nothing of gossip or of the loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import gymnasium as gym
import torch
from gala_envs.parts import num_mask, without_mask
from torch import Tensor, nn

from gala.models.augment import AUGMENTATIONS
from gala.models.distributions import distribution_for, masked
from gala.models.dynamics import Dynamics
from gala.models.encoders import encoder_for, make_encoder
from gala.models.residual import orthogonal_


class Outputs(NamedTuple):
    """``params [..., P]`` of the action distribution, ``value [...]``, and the next recurrent ``state [B, H]``."""

    params: Tensor
    value: Tensor
    state: Tensor


class ActorCritic(nn.Module):
    """Encoder(s) -> optional GRU -> policy head and value head.

    The recurrent state is explicit: ``[B, gru_size]``, of width 0 for a feed-forward policy: one loop serves both.
    """

    def __init__(self, obs_space: gym.Space, action_space: gym.Space, model: Any) -> None:
        """``model`` has the fields of ``ModelConfig``."""
        super().__init__()
        self.bf16 = model.precision == "bf16"
        if not isinstance(obs_space, gym.spaces.Box):
            raise ValueError(f"observation space {obs_space} is not supported; use a Box")
        self.distribution = distribution_for(action_space)
        self.num_mask = num_mask(obs_space)
        assert self.num_mask in (0, self.distribution.num_outputs), "a mask has a number for each logit"
        obs_space = without_mask(obs_space)
        self._obs_shape = obs_space.shape
        self.encoder: nn.Module = make_encoder(obs_space, model)
        self.critic_encoder: nn.Module | None = None
        if model.separate_critic and model.encoder == "mlp" and not model.gru_size:
            self.critic_encoder = make_encoder(obs_space, model)
        width = cast(int, self.encoder.num_features)
        self.gru_size = gru_size = cast(int, model.gru_size)
        self.gru = nn.GRUCell(width, gru_size) if gru_size else None
        width = gru_size or width
        self.augment: nn.Module | None = None
        self.dropout: nn.Dropout | None = None
        self.dynamics: Dynamics | None = None
        self.dynamics_coef = 0.0
        # A near-zero policy head starts from the uniform policy (or a zero mean), whatever the features' scale.
        self.policy_head = orthogonal_(nn.Linear(width, self.distribution.num_outputs), 0.01)
        self.value_head = orthogonal_(nn.Linear(width, 1), 1.0)
        self.log_std: nn.Parameter | None = None
        if self.distribution.num_log_std:
            self.log_std = nn.Parameter(torch.full((self.distribution.num_log_std,), float(model.log_std_init)))

    def regularise(self, model: Any, obs_space: gym.spaces.Box, action_space: gym.Space) -> None:
        """Add what keeps features general: augmentation, dropout, and a head that learns the dynamics
        (``gala.models.dynamics``). ``model`` has the fields of ``ModelConfig``.

        Raises:
            ValueError: augmentation of what is not images.
        """
        if model.augment != "none":
            if len(obs_space.shape) != 3:
                raise ValueError(f"model.augment={model.augment} wants [C, H, W] images, not {obs_space.shape}")
            self.augment = AUGMENTATIONS[model.augment](min(obs_space.shape[1:]))
        if model.dropout:
            self.dropout = nn.Dropout(model.dropout)
        if model.dynamics_coef:
            self.dynamics_coef = model.dynamics_coef
            self.dynamics = Dynamics(cast(int, self.encoder.num_features), obs_space, action_space)

    def seen(self, obs: Tensor) -> Tensor:
        """What the encoder reads of ``obs [N, ...]``: all but the mask of actions, in its own shape."""
        return obs[:, : -self.num_mask].reshape(-1, *self._obs_shape) if self.num_mask else obs

    def allowed_only(self, params: Tensor, obs: Tensor) -> Tensor:
        """``params [N, P]`` by the masks in ``obs [N, ...]``, where there are any."""
        return masked(params, obs[:, -self.num_mask :]) if self.num_mask else params

    def compile_encoders(self, mode: str) -> None:
        """Have ``torch.compile`` translate the encoders at their first use, in one of its modes. The names of the
        parameters, and what is saved of them, stay."""
        for encoder in (self.encoder, self.critic_encoder):
            if encoder is not None:
                encoder.compile(mode=mode)

    def initial_state(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """Zeros ``[batch, gru_size]``."""
        return torch.zeros(batch, self.gru_size, device=device)

    def forward(self, obs: Tensor, state: Tensor, first: Tensor, with_value: bool = True) -> Outputs:
        """One step: ``obs [B, ...]``, ``state [B, H]``, ``first [B]`` (rows whose state is reset before obs is read).
        Without ``with_value`` the value is not computed, and empty."""
        features = self._encode(self.encoder, obs)
        if self.gru is not None:
            features = state = self.gru(features, state * (~first).unsqueeze(-1))
        return self._heads(obs, features, state, with_value)

    def unroll(self, obs: Tensor, state: Tensor, first: Tensor) -> Outputs:
        """``obs [T, B, ...]``, ``state [B, H]`` before the first row, ``first [T, B]``: outputs ``[T, B]``.

        The encoder runs once over all T x B observations; only the GRU is stepped through time.
        """
        return self.unroll_features(self._encode(self.encoder, obs.flatten(0, 1)), obs, state, first)

    def unroll_features(self, features: Tensor, obs: Tensor, state: Tensor, first: Tensor) -> Outputs:
        """``unroll`` with ``features [T x B, F]`` in place of the encoder's."""
        steps, batch = obs.shape[:2]
        if self.gru is not None:
            carried = []
            for x, opens in zip(features.view(steps, batch, -1), first, strict=True):
                state = self.gru(x, state * (~opens).unsqueeze(-1))
                carried.append(state)
            features = torch.cat(carried)
        out = self._heads(obs.flatten(0, 1), features, state)
        return Outputs(out.params.view(steps, batch, -1), out.value.view(steps, batch), state)

    def stack(self, groups: Sequence[Sequence[Outputs]]) -> Outputs:
        """Outputs of T consecutive calls for each group of rows, ``[b]`` each, as those of ``unroll`` for all rows:
        ``[T, B]``, with their graphs."""
        params, value = (
            torch.cat([torch.stack([getattr(out, name) for out in steps]) for steps in groups], 1)
            if len(groups) > 1
            else torch.stack([getattr(out, name) for out in groups[0]])
            for name in ("params", "value")
        )
        return Outputs(params, value, torch.cat([steps[-1].state for steps in groups]))

    def _encode(self, encoder: nn.Module, obs: Tensor) -> Tensor:
        """Features in float32. With bf16 only the encoder's arithmetic is short; parameters, heads and loss are not."""
        obs = self.seen(obs)
        if self.augment is not None:
            obs = self.augment(obs)
        if self.bf16:
            with torch.autocast(obs.device.type, torch.bfloat16):
                features = encoder(obs)
        else:
            features = encoder(obs)
        return features.float() if self.dropout is None else self.dropout(features.float())

    def _heads(self, obs: Tensor, features: Tensor, state: Tensor, with_value: bool = True) -> Outputs:
        params = self.policy_head(features)
        if self.log_std is not None:
            params = torch.cat([params, self.log_std.expand_as(params)], -1)
        params = self.allowed_only(params, obs)
        if not with_value:
            return Outputs(params, params.new_empty(0), state)
        critic_features = features if self.critic_encoder is None else self._encode(self.critic_encoder, obs)
        return Outputs(params, self.value_head(critic_features).squeeze(-1), state)

    def auxiliary_loss(self, obs: Tensor, action: Tensor, reward: Tensor, known: Tensor) -> Tensor | None:
        """What else than the A2C loss this network learns from; None without ``dynamics_coef``.

        ``obs [T, B, ...]``, ``action [T, B, ...]``, ``reward [T, B]``; ``known [T - 1, B]``: obs[t + 1] follows obs[t].
        """
        if self.dynamics is None:
            return None
        features = self._encode(self.encoder, obs[:-1].flatten(0, 1))
        led_to = self.seen(obs[1:].flatten(0, 1))
        error = self.dynamics(features, action[:-1].flatten(0, 1), led_to, reward[:-1].flatten())
        weight = known.flatten() / known.sum().clamp(min=1)
        return self.dynamics_coef * (weight * error).sum()

    def act(self, params: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """Actions ``[B, *action_shape]`` from distribution parameters ``[B, P]``."""
        return self.distribution.mode(params) if greedy else self.distribution.sample(params, generator)


def num_parameters(module: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(p.numel() for p in module.parameters())


def build_actor_critic(obs_space: gym.Space, action_space: gym.Space, model: Any) -> ActorCritic:
    """From any dataclass with the fields of ``ModelConfig``; the encoder auto is ``encoder_for`` the space."""
    if model.encoder == "auto":
        model = dataclasses.replace(model, encoder=encoder_for(obs_space))
    network = ActorCritic(obs_space, action_space, model)
    assert isinstance(obs_space, gym.spaces.Box)
    network.regularise(model, without_mask(obs_space), action_space)
    return network
