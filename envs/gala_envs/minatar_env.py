"""MinAtar's five games (Young and Tian 2019). The package is GPL-3.0, an extra, and loaded in this file only."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array, Autoreset, EnvError, EpisodeTracker, Step, check_actions, row_seeds
from gala_envs.snapshots import State, get_state, python_state, set_python_state, set_state

GAMES = {
    "MinAtar/Asterix-v1": "asterix",
    "MinAtar/Breakout-v1": "breakout",
    "MinAtar/Freeway-v1": "freeway",
    "MinAtar/Seaquest-v1": "seaquest",
    "MinAtar/SpaceInvaders-v1": "space_invaders",
}
_TIME_LIMIT = 10_000
_NUM_ACTIONS = 6


class MinAtarEnv:
    """``num_envs`` copies of one game. See ``BatchedEnv``. Observations are uint8 0/1 [C, 10, 10]; same-step autoreset.

    The games are pure Python, so this is a loop: 3 to 7 us a row and step, 22 us in Space Invaders.
    """

    autoreset: Autoreset = "same-step"
    frames_per_step = 1

    def __init__(
        self,
        id: str,
        num_envs: int,
        *,
        sticky_actions: float = 0.0,
        full_action_space: bool = False,
        max_episode_steps: int = 0,
    ) -> None:
        """``sticky_actions``: probability that a row's previous action is repeated (MinAtar's own default is 0.1).

        ``full_action_space``: all six actions instead of those that do something. ``max_episode_steps``: 0 means 10,000
        decisions; the games have no limit, and a policy that never acts at random can play Breakout for ever.

        Raises:
            ValueError: ``id`` is not one of ``GAMES``.
        """
        if id not in GAMES:
            raise ValueError(f"unknown MinAtar game '{id}'; choose one of {', '.join(GAMES)}")
        module = _game_module(GAMES[id])
        self.id, self.num_envs, self._sticky = id, num_envs, sticky_actions
        self._limit = max_episode_steps or _TIME_LIMIT
        self._games: list[Any] = [module.Env() for _ in range(num_envs)]
        height, width, channels = self._games[0].state_shape()
        self._actions = list(range(_NUM_ACTIONS)) if full_action_space else self._games[0].minimal_action_set()
        self.obs_space: gym.Space = gym.spaces.Box(0, 1, (channels, height, width), np.uint8)
        self.action_space: gym.Space = gym.spaces.Discrete(len(self._actions))
        self._tracker = EpisodeTracker(num_envs)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._last_action = [0] * num_envs

    def reset(self, seed: int | None = None) -> Array:
        for game, row_seed in zip(self._games, row_seeds(seed, self.num_envs), strict=True):
            game.random = np.random.RandomState(row_seed)
            game.reset()
        self._tracker.reset()
        self._elapsed[:] = 0
        self._last_action = [0] * self.num_envs
        return _channels_first([game.state() for game in self._games])

    def step(self, actions: Array) -> Step:
        chosen = [self._actions[a] for a in check_actions(actions, self.action_space, self.num_envs).tolist()]
        if self._sticky:
            chosen = self._stick(chosen)
        rewards, ended, states = [], [], []
        for row, (game, action) in enumerate(zip(self._games, chosen, strict=True)):
            try:
                reward, terminal = game.act(action)
                states.append(game.state())
            except Exception as error:
                raise EnvError(f"{self.id}, row {row}, action {action}: {type(error).__name__}: {error}") from error
            rewards.append(reward)
            ended.append(terminal)
        self._elapsed += 1
        obs, reward = _channels_first(states), np.array(rewards, np.float32)
        terminated, truncated = np.array(ended, bool), self._elapsed >= self._limit
        done = terminated | truncated
        final_obs = None
        if done.any():
            final_obs, obs = obs, obs.copy()
            self._elapsed[done] = 0
            finished = [self._games[row] for row in np.flatnonzero(done)]
            for game in finished:
                game.reset()
            obs[done] = _channels_first([game.state() for game in finished])
        valid = np.ones(self.num_envs, bool)
        returns, lengths = self._tracker.update(reward, valid, done)
        return Step(obs, reward, terminated, truncated, done, valid, final_obs, done, returns, lengths)

    def _stick(self, chosen: list[int]) -> list[int]:
        """As ``minatar.Environment.act`` does it: a draw from the game's stream; an episode's end changes nothing."""
        for row, game in enumerate(self._games):
            if game.random.rand() < self._sticky:
                chosen[row] = self._last_action[row]
        self._last_action = chosen
        return chosen

    def get_state(self) -> State:
        """See ``gala_envs.snapshots``."""
        games = [python_state(game) for game in self._games]
        rest = {"elapsed": self._elapsed, "last_action": self._last_action, "tracker": get_state(self._tracker)}
        return {"games": games, **rest}

    def set_state(self, state: State) -> None:
        for game, its in zip(self._games, state["games"], strict=True):
            set_python_state(game, its)
        self._elapsed, self._last_action = state["elapsed"], state["last_action"]
        set_state(self._tracker, state["tracker"])

    def close(self) -> None:
        """Nothing is held but memory."""


def _channels_first(states: list[Array]) -> Array:
    """bool [10, 10, C] each -> uint8 [len, C, 10, 10]."""
    return np.ascontiguousarray(np.array(states).transpose(0, 3, 1, 2)).view(np.uint8)


def _game_module(game: str) -> ModuleType:
    """One game's module, without importing the package above it: that loads pyplot and seaborn, seconds per process."""
    package = importlib.util.find_spec("minatar")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'minatar'", name="minatar")
    path = Path(package.submodule_search_locations[0]) / "environments" / f"{game}.py"
    spec = importlib.util.spec_from_file_location(f"gala_envs._minatar_{game}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
