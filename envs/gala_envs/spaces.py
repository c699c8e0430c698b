"""From any simulator's spaces to those that a policy can be built for."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array


def observation_adapter(space: gym.Space, name: str) -> tuple[gym.spaces.Box, Callable[[Array], Array]]:
    """What one simulator's observation becomes, and the function that makes it so for a batch.

    Raises:
        ValueError: neither Box nor Discrete.
    """
    if isinstance(space, gym.spaces.Discrete):
        n, start = int(space.n), int(space.start)
        return gym.spaces.Box(0, 1, (n,), np.float32), lambda obs: np.eye(n, dtype=np.float32)[np.asarray(obs) - start]
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(
            f"{name}: {type(space).__name__} observations are not supported; register the environment wrapped in "
            "gymnasium.wrappers.FlattenObservation, so that they become one Box"
        )
    if space.dtype in (np.uint8, np.bool_):
        image = _as_image(np.zeros((1, *space.shape), np.uint8))
        brightest = 1 if space.dtype == np.bool_ else int(space.high.max())
        return gym.spaces.Box(0, brightest, image.shape[1:], np.uint8), lambda obs: _as_image(obs.astype(np.uint8))
    with np.errstate(over="ignore"):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32), lambda obs: obs.astype(np.float32)


def _as_image(obs: Array) -> Array:
    """[B, H, W, C] -> [B, C, H, W]; [B, H, W] gets a channel. Channels are last where that axis is the shortest."""
    if obs.ndim == 3:
        return obs[:, None]
    if obs.ndim == 4 and obs.shape[3] < min(obs.shape[1:3]):
        return np.ascontiguousarray(obs.transpose(0, 3, 1, 2))
    return obs


def action_adapter(space: gym.Space, name: str) -> tuple[gym.Space, Array]:
    """The action space shown outside, and what is added to its actions.

    Raises:
        ValueError: not Discrete, MultiDiscrete or Box.
    """
    if isinstance(space, gym.spaces.Discrete):
        return gym.spaces.Discrete(int(space.n)), np.asarray(space.start)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return gym.spaces.MultiDiscrete(space.nvec), np.asarray(space.start)
    if isinstance(space, gym.spaces.Box):
        return space, np.zeros((), space.dtype)
    raise ValueError(f"{name}: {type(space).__name__} actions are not supported; use Discrete, MultiDiscrete or Box")
