"""Small environments for the tests; ``env.id=helper_envs:Walk-v0`` makes Gymnasium import this module."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

BAD_STEP = 1_000
"""The decision of each simulator at which ``Raises`` and ``NanReward`` do what they are named for."""

STUCK_STEP = 60
"""The decision after which each simulator of ``Stuck`` sleeps for ten minutes."""


class Walk(gym.Env):
    """20 decisions; the reward is 1 for the action that names the sign of the first of four random numbers."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault: str = "") -> None:
        self.fault, self.decisions, self.age = fault, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        if seed is not None:
            self._trace(f"seed {seed}")
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.decisions += 1
        self.age += 1
        reward = float(action == (self.obs[0] > 0))
        bad = self.decisions == BAD_STEP
        if self.fault == "raise" and bad:
            raise KeyError("the simulator broke")
        if self.fault == "raise one" and self.decisions == STUCK_STEP and _is_learner_1():
            raise KeyError("the simulator of learner 1 broke")
        if self.fault == "crash" and bad:
            ctypes.string_at(0)
        if self.fault == "nan reward":
            time.sleep(0.0005)  # a second until then, so that there is a checkpoint of what was learned
            reward = float("nan") if bad else reward
        if self.fault == "stuck" and self.decisions == STUCK_STEP:
            self._trace("stuck")
            time.sleep(600.0)
        if self.fault == "stuck one" and self.decisions == STUCK_STEP and _is_learner_1():
            self._trace("stuck")
            time.sleep(600.0)
        if self.fault == "chatty":
            print("a simulator that says much", flush=True)
        if self.fault == "slow" and _is_learner_1():
            time.sleep(0.005)
        if self.decisions <= 50:
            self._trace(f"action {action}")
        return self._observe(), reward, False, self.age == 20, {}

    def _observe(self) -> np.ndarray:
        self.obs = self.np_random.normal(size=4).astype(np.float32)
        return self.obs

    def _trace(self, line: str) -> None:
        folder = os.environ.get("GALA_TEST_TRACE")
        if folder:
            name = multiprocessing.current_process().name.replace(" ", "-")
            with (Path(folder) / name).open("a") as file:
                file.write(line + "\n")


class SlowStart(Walk):
    """Takes a second to be built, or four in the second learner alone."""

    def __init__(self, one: bool = False) -> None:
        super().__init__()
        if not one:
            time.sleep(1.0)
        elif _is_learner_1():
            time.sleep(4.0)


class TwoLengths(gym.Env):
    """Episodes of 1 and of 100 decisions in turn, reward 1 each: any whole number of pairs has the mean 50.5."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    played = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.played = 1 if seed is not None else self.played + 1
        self.left = 1 if self.played % 2 else 100
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


class Endless(gym.Env):
    """Never ends, with a reward of 1 for each decision; ``pictures`` can be drawn, at the start only, or not at all."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, pictures: str = "none", render_mode: str = "") -> None:
        self.pictures, self.age = pictures, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.age += 1
        return np.zeros(1, np.float32), 1.0, False, False, {}

    def render(self) -> np.ndarray | None:
        if self.pictures == "first" and self.age:
            raise RuntimeError("the screen is gone")
        return None if self.pictures == "none" else np.zeros((16, 16, 3), np.uint8)


class Catch(gym.Env):
    """A ball falls down a 10x10 image; the paddle in the last row moves left, stays or moves right; +-1 at the end.

    A random policy is under the ball with a probability of about 0.2: a mean return of about -0.6.
    """

    observation_space = gym.spaces.Box(0, 1, (2, 10, 10), np.uint8)
    action_space = gym.spaces.Discrete(3)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(10)), int(self.np_random.integers(10))
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.paddle = int(np.clip(self.paddle + action - 1, 0, 9))
        self.row += 1
        over = self.row == 9
        reward = (1.0 if self.paddle == self.ball else -1.0) if over else 0.0
        return self._observe(), reward, over, False, {}

    def render(self) -> np.ndarray:
        return np.stack([*self._observe() * 255, np.zeros((10, 10), np.uint8)], -1).repeat(16, 0).repeat(16, 1)

    def _observe(self) -> np.ndarray:
        image = np.zeros((2, 10, 10), np.uint8)
        image[0, self.row, self.ball] = image[1, 9, self.paddle] = 1
        return image


class Mixed(gym.Env):
    """20 decisions on observations and actions of every finite kind: each part of an action that equals the part of the
    observation of the same name earns a quarter, so that random actions earn 5 an episode or less."""

    observation_space = gym.spaces.Dict(
        number=gym.spaces.Discrete(2, start=3),
        switches=gym.spaces.MultiBinary(1),
        rest=gym.spaces.Tuple([gym.spaces.MultiDiscrete([2, 2]), gym.spaces.Box(-1, 1, (2, 2))]),
    )
    action_space = gym.spaces.Tuple(
        [
            gym.spaces.Discrete(2, start=3),
            gym.spaces.MultiBinary(1),
            gym.spaces.Dict(wheels=gym.spaces.MultiDiscrete([2, 2])),
        ]
    )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.age += 1
        number, switches, parts = action
        hits = [number == self.obs["number"], switches[0] == self.obs["switches"][0]]
        hits += list(parts["wheels"] == self.obs["rest"][0])
        return self._observe(), float(np.mean(hits)), False, self.age == 20, {}

    def _observe(self) -> dict[str, Any]:
        bits = self.np_random.integers(0, 2, 4)
        box = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        self.obs = {"number": bits[0] + 3, "switches": bits[1:2].astype(np.int8), "rest": (bits[2:], box)}
        return self.obs


def _is_learner_1() -> bool:
    return multiprocessing.current_process().name == "gala learner 1"


def _register(name: str, cls: type[gym.Env], **kwargs: Any) -> None:
    gym.register(f"{name}-v0", cls, kwargs=kwargs, disable_env_checker=True)


_register("Walk", Walk)
_register("Raises", Walk, fault="raise")
_register("RaisesOne", Walk, fault="raise one")
_register("Crashes", Walk, fault="crash")
_register("NanReward", Walk, fault="nan reward")
_register("Slow", Walk, fault="slow")
_register("Stuck", Walk, fault="stuck")
_register("StuckOne", Walk, fault="stuck one")
_register("SlowStartOne", SlowStart, one=True)
_register("Chatty", Walk, fault="chatty")
_register("SlowStart", SlowStart)
_register("TwoLengths", TwoLengths)
_register("Catch", Catch)
_register("Mixed", Mixed)
_register("Endless", Endless)
_register("EndlessOnceDrawn", Endless, pictures="first")
