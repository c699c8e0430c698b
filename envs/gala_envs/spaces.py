"""From any simulator's spaces to those that a policy can be built for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array, to_bounds


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


def describe_space(space: gym.Space) -> dict[str, Any]:
    """A Box, Discrete or MultiDiscrete as JSON; ``space_of`` makes an equal one of it.

    Raises:
        ValueError: another kind of space.
    """
    if isinstance(space, gym.spaces.Box):
        bounds = {"low": _as_list(space.low), "high": _as_list(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    raise ValueError(f"{space} is not supported; use Box, Discrete or MultiDiscrete")


def space_of(described: dict[str, Any]) -> gym.Space:
    """The space that ``describe_space`` described. Raises ValueError or KeyError if it did not."""
    kind = described["type"]
    if kind == "Box":
        shape, dtype = tuple(described["shape"]), np.dtype(described["dtype"])
        low, high = (_as_array(described[bound], shape, dtype) for bound in ("low", "high"))
        return gym.spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return gym.spaces.Discrete(described["n"], start=described["start"])
    if kind == "MultiDiscrete":
        return gym.spaces.MultiDiscrete(described["nvec"], start=described["start"])
    raise ValueError(f"unknown kind of space {kind!r}")


def _as_list(bounds: Array) -> list[float | str]:
    """One number if all are equal; what is not finite, which JSON lacks, as text."""
    numbers = bounds.astype(np.float64).ravel().tolist()
    if len(set(numbers)) == 1:
        numbers = numbers[:1]
    return [x if math.isfinite(x) else str(x) for x in numbers]


def _as_array(numbers: list[float | str], shape: tuple[int, ...], dtype: np.dtype) -> Array:
    values = np.array([float(x) for x in numbers])
    return (np.full(shape, values[0]) if len(values) == 1 else values.reshape(shape)).astype(dtype)


def clip_actions(actions: Array, space: gym.Space) -> Array:
    """Within the bounds of a Box and in its dtype, as all continuous-control baselines do; other actions as int64."""
    if isinstance(space, gym.spaces.Box):
        return to_bounds(actions, space)
    return actions.astype(np.int64)
