"""Gymnasium's classic control tasks as vectorised NumPy: its numbers to the last bit, without its loop over rows."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array, Autoreset, EpisodeTracker, Step, check_actions, row_seeds
from gala_envs.families.classic_dynamics import TASKS, Task, mountain_car_continuous
from gala_envs.snapshots import State, get_state, set_state

_MOUNTAIN_CAR = TASKS["MountainCar-v0"]


def _climber_start(rng: np.random.Generator) -> Array:
    return np.append(_MOUNTAIN_CAR.start(rng), 1.0)


CLASSIC: dict[str, Task] = {
    "CartPole-v1": TASKS["CartPole-v1"],
    # Gymnasium's first observation is computed from float32 angles.
    "Acrobot-v1": TASKS["Acrobot-v1"]._replace(start=lambda rng: rng.uniform(-0.1, 0.1, 4).astype(np.float32)),
    "MountainCar-v0": _MOUNTAIN_CAR,
    "MountainCarContinuous-v0": _MOUNTAIN_CAR._replace(
        start=_climber_start,
        advance=mountain_car_continuous,
        observe=lambda s: s[:, :2],
        action_space=gym.spaces.Box(-1.0, 1.0, (1,), np.float32),
        limit=999,
        ranges={"power": (0.0015, (0.0015, 0.0015), ((0.0015, 0.0015), (0.0015, 0.0015)))},
    ),
    "Pendulum-v1": TASKS["Pendulum-v1"],
}
"""Id -> task, with Gymnasium's parameters (the first of each of its ``ranges``)."""

_ENTRY_POINTS = "gymnasium.envs.classic_control."


def is_stock(id: str) -> bool:
    """Whether ``id`` is one of ``CLASSIC`` and still registered as Gymnasium does it: nobody has put an environment of
    his own, arguments or wrappers in its place."""
    spec = gym.registry.get(id)
    if id not in CLASSIC or spec is None or not isinstance(spec.entry_point, str):
        return False
    own = spec.entry_point.startswith(_ENTRY_POINTS) and spec.max_episode_steps == CLASSIC[id].limit
    return own and not spec.kwargs and not spec.additional_wrappers


class ClassicEnv:
    """``num_envs`` copies of one classic control task, equal to Gymnasium's to the last bit. See ``BatchedEnv``.

    Autoreset is same-step. Row i starts its episodes from its own random stream, with Gymnasium's draws in Gymnasium's
    order, so that it replays ``gymnasium.make(id).reset(seed=row_seeds(seed, num_envs)[i])``.
    """

    autoreset: Autoreset = "same-step"
    frames_per_step = 1

    def __init__(self, id: str, num_envs: int, *, max_episode_steps: int = 0) -> None:
        """``max_episode_steps`` 0 keeps the task's limit.

        Raises:
            ValueError: ``id`` is not one of ``CLASSIC``.
        """
        if id not in CLASSIC:
            raise ValueError(f"unknown classic control task '{id}'; choose one of {', '.join(CLASSIC)}")
        self.id, self.num_envs, self.task = id, num_envs, CLASSIC[id]
        self.obs_space: gym.Space = self.task.obs_space
        self.action_space = self.task.action_space
        self.max_episode_steps = max_episode_steps or self.task.limit
        self._params = {name: default for name, (default, *_) in self.task.ranges.items()}
        self._state = np.zeros((num_envs, len(self.task.start(np.random.default_rng(0)))))
        self._elapsed = np.zeros(num_envs, np.int64)
        self._streams: list[np.random.Generator] = []
        self._tracker = EpisodeTracker(num_envs)

    def reset(self, seed: int | None = None) -> Array:
        self._streams = [np.random.default_rng(s) for s in row_seeds(seed, self.num_envs)]
        self._tracker.reset()
        return self._start(np.arange(self.num_envs))

    def step(self, actions: Array) -> Step:
        actions = check_actions(actions, self.action_space, self.num_envs)
        self._state, reward, terminated = self.task.advance(self._state, actions, self._params)
        obs, reward = self.task.observe(self._state).astype(np.float32), reward.astype(np.float32)
        self._elapsed += 1
        truncated = self._elapsed >= self.max_episode_steps
        done, final_obs = terminated | truncated, None
        valid = np.ones(self.num_envs, bool)
        returns, lengths = self._tracker.update(reward, valid, done)
        if len(rows := np.flatnonzero(done)):
            final_obs, obs = obs, obs.copy()
            obs[rows] = self._start(rows)
        return Step(obs, reward, terminated, truncated, done, valid, final_obs, done, returns, lengths)

    def _start(self, rows: Array) -> Array:
        """Restarts ``rows``; returns their observations."""
        starts = np.stack([self.task.start(self._streams[row]) for row in rows])
        self._state[rows], self._elapsed[rows] = starts, 0
        return self.task.observe(starts).astype(np.float32)

    def get_state(self) -> State:
        """See ``gala_envs.snapshots``."""
        return {
            "state": self._state,
            "elapsed": self._elapsed,
            "streams": self._streams,
            "tracker": get_state(self._tracker),
        }

    def set_state(self, state: State) -> None:
        """Also takes what Gymnasium's own simulators of this task have saved."""
        set_state(self._tracker, state["tracker"])
        if "rows" not in state:
            self._state[:], self._elapsed[:], self._streams = state["state"], state["elapsed"], state["streams"]
            return
        rows = [{name: value for layer in layers for name, value in layer.items()} for layers in state["rows"]]
        self._streams = [row["_np_random"] for row in rows]
        self._elapsed[:] = [row["_elapsed_steps"] for row in rows]
        for own, row in zip(self._state, rows, strict=True):
            theirs = np.asarray(row["state"])
            # The third number of MountainCarContinuous says whether the others are still in float64.
            own[:] = (*theirs, theirs.dtype == np.float64)[: len(own)]

    def close(self) -> None:
        """Nothing is held but memory."""
