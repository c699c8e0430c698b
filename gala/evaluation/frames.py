"""Observations -> the frames that are recorded of them: the newest picture, small."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from gala_envs.parts import num_mask, without_mask
from gala_envs.pictures import area_weights
from gala_envs.registry import resolve_backend
from numpy.typing import NDArray

from gala.config.schema import Config


class Framing(NamedTuple):
    """How a batch of observations [B, ...] becomes frames [B, *shape]."""

    shape: tuple[int, ...]
    dtype: str
    """uint8 or float32."""
    top: int | None
    """The largest value of a pixel, 1 or 255; None: any numbers."""
    make: Callable[[NDArray], NDArray]


def framing(config: Config, space: gym.Space, size: int) -> Framing:
    """Frames of the observations in ``space``.

    Of stacked pictures (Atari, ``backgrounds``) a frame is the newest one. Pictures of 256 values whose height or
    width is more than ``size`` pixels are averaged down to ``size`` by area (0: all stay as they are). Planes of 0 and
    1 (MinAtar, mazes) stay as they are, and so do vectors.

    Raises:
        ValueError: observations are no arrays of numbers.
    """
    if not isinstance(space, gym.spaces.Box) or not space.shape:
        raise ValueError(f"{config.env.id} has observations of {space}; frames are recorded of arrays of numbers")
    if masks := num_mask(space):  # whether an action was allowed is nothing that a frame shows
        whole = without_mask(space)
        frames = framing(config, whole, size)
        return frames._replace(make=lambda obs: frames.make(obs[:, :-masks].reshape(-1, *whole.shape)))
    if space.dtype != np.uint8 or len(space.shape) != 3:
        return Framing(space.shape, "float32", None, lambda obs: obs.astype(np.float32))
    last_axis_is_colour = space.shape[-1] in (1, 3, 4) and space.shape[0] not in (1, 3, 4)
    shape = (space.shape[2], *space.shape[:2]) if last_axis_is_colour else space.shape
    channels = newest_channels(config) or shape[0]
    top = 1 if space.high.max() <= 1 else 255
    small = (size, size) if size and top == 255 and max(shape[1:]) > size else shape[1:]
    rows, columns = (area_weights(old, new) for old, new in zip(shape[1:], small, strict=True))

    def make(obs: NDArray) -> NDArray:
        planes = (np.moveaxis(obs, -1, 1) if last_axis_is_colour else obs)[:, -channels:]
        if planes.shape[2:] == small:
            return np.ascontiguousarray(planes)
        return np.rint(rows @ planes @ columns.T).astype(np.uint8)

    return Framing((channels, *small), "uint8", top, make)


def newest_channels(config: Config) -> int:
    """How many channels of a stack are its newest picture; 0: nothing is stacked."""
    backend = resolve_backend(config.env.id, config.env.backend)
    family = config.env.id.partition(":")[0] if backend == "contexts" else ""
    if backend in ("atari", "envpool") or family in ("ale", "envpool"):
        return 1
    return 3 if family == "backgrounds" else 0
