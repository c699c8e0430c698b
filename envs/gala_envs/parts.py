"""Several things in one vector: the parts of an observation, and after them the mask of the actions that it allows.

A policy reads one array, and every buffer, normaliser and checkpoint holds one. Where an environment gives several
arrays they lie in a vector, one after the other, and its space says where.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array


class Part(NamedTuple):
    """Where one part of an observation lies: ``size`` numbers from ``start`` on.

    ``name``: its keys, joined by dots; empty of an observation that is one array. ``shape``: as the numbers lie;
    ``channels_last``: an image [H, W, C], which is read as [C, H, W].
    """

    name: str
    start: int
    shape: tuple[int, ...]
    channels_last: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @classmethod
    def of_box(cls, name: str, space: gym.spaces.Box) -> Part:
        """The part that a box becomes; bytes [H, W] get a channel, as they do alone."""
        shape = tuple(space.shape)
        if len(shape) == 2 and space.dtype in (np.uint8, np.bool_):
            return cls(name, 0, (1, *shape))
        return cls(name, 0, shape, len(shape) == 3 and shape[2] < min(shape[:2]))


class FlatBox(gym.spaces.Box):
    """A vector of ``parts``, with ``num_mask`` numbers behind them that are 1 for each action that is allowed, else 0:
    of MultiDiscrete actions those of all parts, one after the other."""

    def __init__(self, low: Array, high: Array, dtype: Any, parts: Sequence[Part], num_mask: int = 0) -> None:
        super().__init__(low, high, dtype=dtype)
        self.parts, self.num_mask = tuple(parts), num_mask

    def part_space(self, part: Part) -> gym.spaces.Box:
        """The space of one part, images as [C, H, W]."""
        low, high = (b[part.start : part.start + part.size].reshape(part.shape) for b in (self.low, self.high))
        if part.channels_last:
            low, high = low.transpose(2, 0, 1), high.transpose(2, 0, 1)
        return gym.spaces.Box(low, high, dtype=self.dtype.type)


def num_mask(space: gym.Space) -> int:
    """How many numbers at the end of an observation are a mask of actions; 0 of most."""
    return space.num_mask if isinstance(space, FlatBox) else 0


def with_mask(space: gym.spaces.Box, num_actions: int) -> FlatBox:
    """``space`` as a vector, in its dtype, with a mask of ``num_actions`` behind it."""
    parts = space.parts if isinstance(space, FlatBox) else (Part("", 0, tuple(space.shape)),)
    ends = np.zeros(num_actions, space.dtype), np.ones(num_actions, space.dtype)
    low, high = (np.concatenate([b.ravel(), end]) for b, end in zip((space.low, space.high), ends, strict=True))
    return FlatBox(low, high, space.dtype.type, parts, num_actions)


def without_mask(space: gym.spaces.Box) -> gym.spaces.Box:
    """What a network reads of ``space``: the inverse of ``with_mask``."""
    if not num_mask(space):
        return space
    assert isinstance(space, FlatBox)
    if [part.name for part in space.parts] == [""]:
        return space.part_space(space.parts[0])
    low, high = (bound[: -space.num_mask] for bound in (space.low, space.high))
    return FlatBox(low, high, space.dtype.type, space.parts)


def join_mask(obs: Array, mask: Array) -> Array:
    """A batch of observations [B, ...] and their masks [B, n] as the vectors of ``with_mask``."""
    return np.concatenate([obs.reshape(len(obs), -1), mask.astype(obs.dtype)], 1)
