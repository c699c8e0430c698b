"""EnvPool: batched C++ simulators (Atari, Procgen, DeepMind Control, Box2D, ...). An extra, imported here only."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from gala_envs.contract import Array, Autoreset, EpisodeTracker, Step, check_actions, row_seeds
from gala_envs.spaces import action_adapter, observation_adapter
from gala_envs.watchdog import TimedCaller

_OPTIONS = {
    "sticky_actions": ("repeat_action_probability",),
    "full_action_space": ("full_action_space",),
    "frame_skip": ("frame_skip",),
    "frame_stack": ("stack_num",),
    "image_size": ("img_height", "img_width"),
    "noop_max": ("noop_max",),
    "life_loss_ends_episode": ("episodic_life",),
}
"""The field's name of an Atari setting -> EnvPool's."""


def list_ids() -> list[str]:
    """Every task that EnvPool registers."""
    import envpool

    return list(envpool.list_all_envs())


class EnvPoolEnv:
    """``num_envs`` simulators of one EnvPool task. See ``BatchedEnv``. Autoreset is next-step: EnvPool has no other.

    ``life_loss_ends_episode`` is worked out from the lives. EnvPool's ``episodic_life`` also goes on with the game, but
    plays up to 30 no-ops after each life and spends a row that belongs to no episode.
    """

    autoreset: Autoreset = "next-step"

    def __init__(
        self,
        id: str,
        num_envs: int,
        *,
        threads: int = 0,
        max_episode_steps: int = 0,
        watchdog_s: float = 60.0,
        **atari: Any,
    ) -> None:
        """``threads`` 0 uses every core; ``max_episode_steps`` 0 keeps the task's limit; ``atari``: see ``_OPTIONS``.

        Raises:
            ValueError: the task is unknown, its spaces are not supported, or an option does not apply to it.
        """
        if id not in list_ids():
            raise ValueError(f"EnvPool has no task '{id}'; `gala envs envpool` lists all")
        self.id, self.num_envs = id, num_envs
        self._settings: dict[str, Any] = {"num_envs": num_envs, "num_threads": threads}
        if max_episode_steps:
            self._settings["max_episode_steps"] = max_episode_steps
        known = self._spec().config
        for option, value in atari.items():
            if any(key not in known._fields for key in _OPTIONS[option]):
                raise ValueError(f"{option} does not apply to EnvPool's {id}")
            if option != "life_loss_ends_episode":
                self._settings |= dict.fromkeys(_OPTIONS[option], value)
        self._lives_count = "episodic_life" in known._fields and atari.get("life_loss_ends_episode", True)
        self.frames_per_step = int(self._settings.get("frame_skip", getattr(known, "frame_skip", 1)))
        spec = self._spec()
        self.obs_space, self._convert = observation_adapter(spec.gymnasium_observation_space, id)
        self.action_space, self._to_simulators = action_adapter(spec.gymnasium_action_space, id)
        self._call = TimedCaller(watchdog_s, id)
        self._tracker = EpisodeTracker(num_envs)
        self._env: Any = None

    def _spec(self) -> Any:
        import envpool

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium notes that EnvPool's bounds are rounded to float32
            return envpool.make_spec(self.id, **self._settings)

    def reset(self, seed: int | None = None) -> Array:
        """EnvPool takes seeds at construction only, so the pool is built anew."""
        import envpool

        settings = self._settings | {"env_seed": [s >> 1 for s in row_seeds(seed, self.num_envs)]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._env = self._call(lambda: envpool.make_gymnasium(self.id, **settings))
        obs, info = self._call(self._env.reset)
        self._tracker.reset()
        self._waiting = np.zeros(self.num_envs, bool)
        self._lives = self._read_lives(info)
        return self._convert(obs)

    def step(self, actions: Array) -> Step:
        # EnvPool does not check: an index out of range is an undefined read.
        actions = self._to_simulators(check_actions(actions, self.action_space, self.num_envs))
        obs, reward, terminated, truncated, info = self._call(lambda: self._env.step(actions))
        over = terminated | truncated
        lives = self._read_lives(info)
        # Some games show no lives for a few frames before they are over; a time limit may fall on a lost life.
        lost = ~over & (lives < self._lives) & (lives > 0)
        valid, first = ~self._waiting, self._waiting | lost
        self._waiting, self._lives = over, lives
        obs, reward = self._convert(obs), np.where(valid, reward, 0).astype(np.float32)
        returns, lengths = self._tracker.update(reward, valid, over)
        return Step(obs, reward, terminated | lost, truncated, first, valid, obs, over, returns, lengths)

    def _read_lives(self, info: dict[str, Any]) -> Array:
        return info["lives"].copy() if self._lives_count else np.zeros(self.num_envs, np.int32)

    def close(self) -> None:
        self._call.close()
        self._env = None


def level_spec(id: str) -> Any:
    """The specification of a task that has levels: Procgen's and MiniGrid's.

    Raises:
        ValueError: there is no such task, it has no levels, or a library of the system is missing.
    """
    import envpool

    if id not in list_ids():
        raise ValueError(f"EnvPool has no task '{id}'; `gala envs envpool` lists all")
    try:
        spec = envpool.make_spec(id)
    except ImportError as error:
        raise ValueError(f"EnvPool cannot load {id}: {error}; Procgen needs Qt 5 (apt install qtbase5-dev)") from None
    if not (id.startswith("MiniGrid-") or "start_level" in spec.config._fields):
        raise ValueError(f"EnvPool's {id} has no levels (Procgen and MiniGrid have); use the seeds family")
    return spec


def make_level(id: str, seed: int) -> Any:
    """A pool of one simulator whose first episode is on level ``seed``. The seed is fixed when a pool is made."""
    import envpool

    level = {"num_levels": 1, "start_level": seed} if "start_level" in level_spec(id).config._fields else {"seed": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return envpool.make_gymnasium(id, num_envs=1, num_threads=1, **level)
