"""Environments that mask actions and raise at those that they do not allow; ``env.id=masked_envs:Doors``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Doors(gym.Env):
    """Four doors, some of them walls: the goal earns 1. Its mask is another one after each decision.

    The observation is one-hot in the goal, without a word of the walls. Episodes last five to nine decisions; after the
    last one nothing is allowed.
    """

    observation_space: gym.Space = gym.spaces.Box(0, 1, (4,), np.float32)
    action_space: gym.Space = gym.spaces.Discrete(4)
    sizes = (4,)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(5, 10))
        return self._turn()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        chosen = np.ravel(action)
        if not all(mask[choice] for mask, choice in zip(self.masks, chosen, strict=True)):
            raise ValueError(f"{action} is a wall")
        self.left -= 1
        reward = float((chosen == self.goals).mean())
        obs, info = self._turn()
        if not self.left:
            info = {key: value * 0 for key, value in info.items()}
        return obs, reward, not self.left, False, info

    def _turn(self) -> tuple[Any, dict[str, Any]]:
        self.goals = [int(self.np_random.integers(n)) for n in self.sizes]
        self.masks = [self.np_random.random(n) < 0.5 for n in self.sizes]
        for mask, goal in zip(self.masks, self.goals, strict=True):
            mask[goal] = True
        return self._observe(), {"action_mask": np.concatenate(self.masks)}

    def _observe(self) -> Any:
        return np.concatenate(
            [np.eye(n, dtype=np.float32)[goal] for n, goal in zip(self.sizes, self.goals, strict=True)]
        )


class TwoLocks(Doors):
    """The same with two choices at a time."""

    observation_space = gym.spaces.Box(0, 1, (5,), np.float32)
    action_space = gym.spaces.MultiDiscrete([2, 3])
    sizes = (2, 3)


class Asked(Doors):
    """The same, its masks by a method, as sb3-contrib's MaskablePPO wants them."""

    def action_masks(self) -> np.ndarray:
        return np.concatenate(self.masks)

    def _turn(self) -> tuple[Any, dict[str, Any]]:
        return super()._turn()[0], {}


class Painted(Doors):
    """The same, the goal painted in an image [H, W, C] of bytes."""

    observation_space = gym.spaces.Box(0, 255, (8, 9, 3), np.uint8)

    def _observe(self) -> np.ndarray:
        image = np.zeros((8, 9, 3), np.uint8)
        image[2 * self.goals[0], :, 1] = 200
        return image


class Faulty(Doors):
    """Breaks at its third decision, as ``fault`` says."""

    def __init__(self, fault: str) -> None:
        self.fault, self.turns = fault, 0

    def _turn(self) -> tuple[Any, dict[str, Any]]:
        obs, info = super()._turn()
        self.turns += 1
        if self.turns == 4:
            info = {"nothing": {"action_mask": np.zeros(4)}, "missing": {}, "long": {"action_mask": np.ones(5)}}[
                self.fault
            ]
        return obs, info


class Late(Doors):
    """Gives masks, which allow all, with steps, and none with resets."""

    def _turn(self) -> tuple[Any, dict[str, Any]]:
        obs, _ = super()._turn()
        self.masks = [np.ones(n) for n in self.sizes]
        return obs, {"action_mask": np.ones(sum(self.sizes))}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return super().reset(**kwargs)[0], {}


class Empty(Faulty):
    """A mask that allows nothing, after its trial."""

    def __init__(self) -> None:
        super().__init__("nothing")
        self.turns = -8
