"""Levels of Procgen and MiniGrid, as EnvPool plays them: the level seed fixes the layout.

Procgen: Cobbe, Hesse, Hilton and Schulman 2020 (arXiv 1912.01588), with ``num_levels=1`` and ``start_level`` the level
seed. The observation in which a game of Procgen ends is already the next game's first. Of MiniGrid's observations only
the picture of what the agent sees is kept. Each episode has a pool of its own, since EnvPool takes seeds only when a
pool is made: this is for evaluation on given levels, not for speed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np

from gala_envs.contexts import Context, Parameter, Scalar, Transition, draw_distinct
from gala_envs.contract import Array
from gala_envs.envpool_backend import level_spec, make_level
from gala_envs.identity import roll_hash
from gala_envs.spaces import action_adapter, observation_adapter


class EnvPoolLevels:
    """See ``Family``. Two levels are the same MDP if fixed actions lead through the same pictures and rewards."""

    ARGUMENT = "MiniGrid-FourRooms-v0"
    compares = "what comes of 4 fixed sequences of 16 actions"
    regions: tuple[str, ...] = ("levels",)
    parameters: Mapping[str, Parameter] = MappingProxyType({})

    def __init__(self, id: str) -> None:
        """Raises ValueError if EnvPool is not installed, or has no such task with levels."""
        if importlib.util.find_spec("envpool") is None:
            raise ValueError(f"envpool:{id} needs EnvPool; run: pip install envpool")
        self.name, self.id, spec = f"envpool:{id}", id, level_spec(id)
        self.obs_space, self.convert = observation_adapter(_picture(spec.gymnasium_observation_space), id)
        self.action_space, self.to_simulators = action_adapter(spec.gymnasium_action_space, id)

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        return draw_distinct(n, lambda: Context.of(self.name, int(rng.integers(2**31 - 1))), self.fingerprint)

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> _Pools:
        return _Pools(self, num_envs)

    def fingerprint(self, context: Context) -> str:
        return roll_hash(_Pools(self, 1), context)

    def optimal_return(self, context: Context) -> float | None:
        return None

    def begin(self, context: Context) -> tuple[Any, Array]:
        """A pool in the context's level, and the first observation [1, ...]."""
        pool = make_level(self.id, int(context.seed or 0))
        return pool, self.convert(_picture(pool.reset()[0]))


def _picture(obs: Any) -> Any:
    """The picture in a space, or in observations: MiniGrid's have a direction and a mission beside it."""
    return obs["image"] if isinstance(obs, dict | gym.spaces.Dict) else obs


class _Pools:
    """See ``Simulators``."""

    frames_per_step = 1

    def __init__(self, family: EnvPoolLevels, num_envs: int) -> None:
        self._family, self.action_space = family, family.action_space
        self.obs_space: gym.Space = family.obs_space
        self._pools: list[Any] = [None] * num_envs

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        obs = []
        for row, context in zip(rows, contexts, strict=True):
            self._pools[row], first = self._family.begin(context)
            obs.append(first)
        return np.concatenate(obs)

    def step(self, actions: Array) -> Transition:
        asked = self._family.to_simulators(actions).astype(np.int32)
        stepped = [pool.step(asked[row : row + 1]) for row, pool in enumerate(self._pools)]
        obs = np.concatenate([self._family.convert(_picture(s[0])) for s in stepped])
        reward, terminated, truncated = (np.concatenate([s[k] for s in stepped]) for k in (1, 2, 3))
        return Transition(obs, reward.astype(np.float64), terminated.astype(bool), truncated.astype(bool) & ~terminated)

    def close(self) -> None:
        self._pools = []
