"""A small environment that breaks when it is told to, for ``benchmarks/faults.py``: env.id=faulty_env:Walk-v0."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np


class Walk(gym.Env):
    """20 decisions; the reward is 1 for the action that names the sign of the first of four random numbers.

    The file that the variable GALA_FAULT names, if it exists, holds what the next step does: raise, hang, nan reward or
    nan observation. Whoever finds it takes it away first, so that it happens once.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.age = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.age += 1
        fault = _take_fault()
        reward = float("nan") if fault == "nan reward" else float(action == (self.obs[0] > 0))
        if fault == "raise":
            raise KeyError("the simulator broke")
        if fault == "hang":
            time.sleep(3600.0)
        obs = self._observe()
        return np.full_like(obs, np.nan) if fault == "nan observation" else obs, reward, False, self.age == 20, {}

    def _observe(self) -> np.ndarray:
        self.obs = self.np_random.normal(size=4).astype(np.float32)
        return self.obs


def _take_fault() -> str:
    path = Path(os.environ.get("GALA_FAULT", "") or os.devnull)
    if not path.is_file():
        return ""
    try:
        path.rename(path.with_suffix(f".{os.getpid()}"))
        return path.with_suffix(f".{os.getpid()}").read_text()
    except OSError:  # another simulator was quicker
        return ""


gym.register("Walk-v0", Walk, disable_env_checker=True)
