"""MuJoCo through ``mujoco.batch``: all simulations of a learner on one C++ thread pool, tasks as vectorised NumPy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array, Autoreset, EnvError, EpisodeTracker, Step, check_actions, row_seeds
from gala_envs.mujoco_tasks import TASKS, Sim
from gala_envs.snapshots import State


class Physics:
    """``num_envs`` simulations of one task: starts and steps, in float64, without episodes.

    Raises:
        ValueError: ``id`` is not one of ``mujoco_tasks.TASKS``.
    """

    def __init__(self, id: str, num_envs: int, threads: int) -> None:
        if id not in TASKS:
            raise ValueError(f"unknown MuJoCo task '{id}'; choose one of {', '.join(TASKS)}")
        import mujoco
        from mujoco.batch import Batch, SimulationError

        self.id, self.task, self._failure = id, TASKS[id], SimulationError
        self.model = model = _load(_asset(self.task.xml))
        self._contacts = "cfrc_ext" in self.task.derived
        # Only a persistent batch keeps the contacts that _contact_forces reads back; it costs 3% of a step.
        self.batch: Any = Batch(model, num_envs, threads or len(os.sched_getaffinity(0)), persistent=self._contacts)
        derived = {name: self.batch.bind(name) for name in self.task.derived if name != "cfrc_ext"}
        if self._contacts:
            self._scratch = mujoco.MjData(model)
            self._forces = derived["cfrc_ext"] = np.zeros((num_envs, model.nbody, 6))
        dt = model.opt.timestep * self.task.frame_skip
        self.sim = Sim(model, dt, self.batch.bind("qpos"), self.batch.bind("qvel"), derived)
        self._ctrl = self.batch.bind("ctrl")
        low, high = model.actuator_ctrlrange.astype(np.float32).T
        self.action_space: gym.Space = gym.spaces.Box(low, high, dtype=np.float32)
        self.obs_space: gym.Space = gym.spaces.Box(-np.inf, np.inf, self.task.obs(self.sim).shape[1:], np.float32)
        self._position = self.task.position(self.sim).copy()

    def advance(self, action: Array) -> tuple[Array, Array, Array]:
        """One decision ``[B, actions]`` in every simulation: (obs, reward, alive)."""
        task, sim = self.task, self.sim
        before = self._position
        self._ctrl[:] = action
        self.call(self.batch.step, nstep=task.frame_skip)
        if self._contacts:
            self._contact_forces()
        obs, alive = task.obs(sim), task.alive(sim)
        self._position = task.position(sim).copy()
        return obs, task.reward(sim, (self._position - before) / sim.dt, action, alive), alive

    def start(self, rows: Array, states: Sequence[tuple[Array, Array]]) -> None:
        """Put simulation ``rows[i]`` at ``states[i]`` = (qpos, qvel); ``task.obs(sim)`` then shows it."""
        import mujoco

        self.call(self.batch.reset, rows, stage=mujoco.mjtStage.mjSTAGE_NONE)
        for row, (qpos, qvel) in zip(rows, states, strict=True):
            self.sim.qpos[row], self.sim.qvel[row] = qpos, qvel
        self.call(self.batch.forward, rows)
        if self._contacts:
            self._forces[rows] = 0.0
        self._position = self.task.position(self.sim).copy()

    def get_state(self) -> State:
        """MuJoCo's state vectors; the position is kept apart, since it may be derived, one substep behind them."""
        return {"vectors": self.batch.state, "position": self._position}

    def set_state(self, state: State) -> None:
        self.batch.state[:], self._position = state["vectors"], state["position"]

    def call(self, method: Any, *args: Any, **kwargs: Any) -> None:
        """A call of the batch; a simulation that fails is named."""
        try:
            method(*args, **kwargs)
        except self._failure as error:
            raise EnvError(f"{self.id}, row {int(error.ids[0])}: {error}") from error

    def _contact_forces(self) -> None:
        """Contact forces on each body [B, nbody, 6], which MuJoCo computes only when asked, and the batch cannot ask.

        The one loop over rows: 15 us each, 5% of a step of Ant or Humanoid on one thread.
        """
        import mujoco

        for row in range(len(self.sim.qpos)):
            self.batch.get_data(row, self._scratch)
            mujoco.mj_rnePostConstraint(self.model, self._scratch)  # contact forces do not depend on a row's own model
            self._forces[row] = self._scratch.cfrc_ext


class MujocoEnv:
    """``num_envs`` copies of one Gymnasium v5 task, equal to it in observation, reward, termination and truncation.

    See ``BatchedEnv``. Autoreset is same-step. Row i starts its episodes from its own random stream, with Gymnasium's
    draws in Gymnasium's order, so that it replays ``gymnasium.make(id).reset(seed=row_seeds(seed, num_envs)[i])``.
    """

    autoreset: Autoreset = "same-step"
    SAVED = ("_physics", "_streams", "_elapsed", "_tracker")

    def __init__(self, id: str, num_envs: int, *, threads: int = 0, max_episode_steps: int = 0) -> None:
        """``threads`` 0 uses every core that this process may use; ``max_episode_steps`` 0 keeps the task's limit.

        Raises:
            ValueError: ``id`` is not one of ``mujoco_tasks.TASKS``.
        """
        self._physics: Physics | None = Physics(id, num_envs, threads)
        self.id, self.num_envs, self.task = id, num_envs, self._physics.task
        self.obs_space, self.action_space = self._physics.obs_space, self._physics.action_space
        self.frames_per_step = self.task.frame_skip
        self.max_episode_steps = max_episode_steps or self.task.max_episode_steps
        self._streams: list[np.random.Generator] = []
        self._tracker = EpisodeTracker(num_envs)
        self._elapsed = np.zeros(num_envs, np.int64)

    def reset(self, seed: int | None = None) -> Array:
        return self.reset64(seed).astype(np.float32)

    def step(self, actions: Array) -> Step:
        s = self.step64(actions)
        final_obs = None if s.final_obs is None else s.final_obs.astype(np.float32)
        return s._replace(obs=s.obs.astype(np.float32), reward=s.reward.astype(np.float32), final_obs=final_obs)

    def reset64(self, seed: int | None = None) -> Array:
        """``reset`` before rounding to float32: what is compared with Gymnasium."""
        self._streams = [np.random.default_rng(s) for s in row_seeds(seed, self.num_envs)]
        self._tracker.reset()
        return self._start(np.arange(self.num_envs))

    def step64(self, actions: Array) -> Step:
        """``step`` before rounding to float32."""
        assert self._physics is not None, "this environment is closed"
        action = check_actions(actions, self.action_space, self.num_envs).astype(np.float64)
        obs, reward, alive = self._physics.advance(action)
        self._elapsed += 1
        terminated, truncated = ~alive, self._elapsed >= self.max_episode_steps
        done = terminated | truncated
        final_obs = None
        if done.any():
            final_obs = obs
            obs = self._start(np.flatnonzero(done))
        valid = np.ones(self.num_envs, bool)
        returns, lengths = self._tracker.update(reward, valid, done)
        return Step(obs, reward, terminated, truncated, done, valid, final_obs, done, returns, lengths)

    def _start(self, rows: Array) -> Array:
        """Restarts ``rows``; returns the observations of all."""
        assert self._physics is not None, "this environment is closed"
        self._elapsed[rows] = 0
        self._physics.start(rows, [self.task.start(self._streams[row], self._physics.model, 1.0) for row in rows])
        return self.task.obs(self._physics.sim)

    def close(self) -> None:
        """Nothing runs between calls: the thread pool goes with the batch when the last reference does."""
        self._physics = None


def _load(path: Path) -> Any:
    """The model, without MuJoCo's note on HalfCheetah's file, which also leaves a MUJOCO_LOG.TXT behind."""
    import mujoco

    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda _message: None)
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    finally:
        mujoco.set_mju_user_warning(handler)


def _asset(xml: str) -> Path:
    """Gymnasium's own model files, found without importing its MuJoCo package, which loads a renderer."""
    assert gym.__file__ is not None
    return Path(gym.__file__).parent / "envs" / "mujoco" / "assets" / xml
