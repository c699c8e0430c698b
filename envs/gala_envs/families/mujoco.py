"""MuJoCo tasks with other bodies: every parameter is a multiplier of the model file's own value.

HalfCheetah and Hopper have the ranges of Packer et al. 2018 (arXiv 1810.12282), made relative to its default D; the
other tasks 0.75 to 1.25 (R) and 0.5 to 0.75 or 1.25 to 1.5 (E). ``mass`` scales masses and inertias (their density),
``power`` the actuators' gear. After an edit ``mj_setConst`` derives what follows from it, and ``verify`` makes sure.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gala_envs.contexts import Context, Parameter, Scalar, Transition, array_hash, draw_distinct
from gala_envs.contract import Array
from gala_envs.mujoco_batch import Physics
from gala_envs.mujoco_tasks import TASKS

Range = tuple[tuple[float, float], tuple[tuple[float, float], tuple[float, float]]]
_USUAL: Range = ((0.75, 1.25), ((0.5, 0.75), (1.25, 1.5)))
_FRICTION: Range = ((0.625, 1.375), ((0.25, 0.625), (1.375, 1.75)))
RANGES: dict[str, dict[str, Range]] = {
    "HalfCheetah-v5": {
        "mass": _USUAL,
        "friction": _FRICTION,
        "power": ((7 / 9, 11 / 9), ((5 / 9, 7 / 9), (11 / 9, 13 / 9))),
    },
    "Hopper-v5": {"mass": _USUAL, "friction": _FRICTION, "power": ((0.8, 1.2), ((2 / 3, 0.8), (1.2, 4 / 3)))},
}
"""Task -> parameter -> (R, E)."""
_FIXED_START = ("Reacher-v5", "Pusher-v5")
_WALKED_M = {"HalfCheetah-v5": 20.0, "Hopper-v5": 20.0}


class Mujoco:
    """See ``Family``. ``init_noise`` multiplies the noise of the start, ``sensor_noise`` is a standard deviation on
    every observed number, ``delay`` holds actions back for so many decisions.

    Raises:
        ValueError: ``task`` is not one of ``TASKS``.
    """

    ARGUMENT = "Hopper-v5"

    def __init__(self, task: str) -> None:
        if task not in TASKS:
            raise ValueError(f"mujoco:{task}: wants one of {', '.join(TASKS)}")
        self.name, self.task_id = f"mujoco:{task}", task
        self.ranges = RANGES.get(task, dict.fromkeys(("mass", "friction", "power"), _USUAL))
        self.regions: tuple[str, ...] = ("R", "D", "E")
        self.parameters: dict[str, Parameter] = {
            name: Parameter(1.0, 0.01, 100.0) for name in ("mass", "friction", "power", "gravity", "damping")
        }
        self.parameters |= {"sensor_noise": Parameter(0.0, 0.0, 100.0), "delay": Parameter(0, 0, 5)}
        if task not in _FIXED_START:
            self.parameters["init_noise"] = Parameter(1.0, 0.0, 100.0)

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        """Region D has no parameters to draw: its contexts differ in the level seed, which fixes the start."""

        def draw() -> Context:
            drawn: dict[str, Scalar] = {}
            for name, (inside, outside) in self.ranges.items():
                low, high = inside if region == "R" else outside[int(rng.integers(2))]
                if region != "D":
                    drawn[name] = float(rng.uniform(low, high))
            seed = int(rng.integers(2**31)) if region == "D" else None
            return Context.of(self.name, seed, **{**drawn, **settings})

        return draw_distinct(n, draw, self.fingerprint)

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> Bodies:
        return Bodies(self.task_id, num_envs, threads)

    def fingerprint(self, context: Context) -> str:
        values = np.array([float(context.get(name, p.default)) for name, p in self.parameters.items()])
        return array_hash(values, np.array([-1 if context.seed is None else context.seed]))

    def optimal_return(self, context: Context) -> float | None:
        return None


def edited(model: Any, context: Context) -> Any:
    """A copy of the task's model with the context's parameters, and with all constants that follow from them."""
    import mujoco

    new = copy.copy(model)
    new.body_mass[:] = model.body_mass * context.get("mass", 1.0)
    new.body_inertia[:] = model.body_inertia * context.get("mass", 1.0)
    new.geom_friction[:, 0] = model.geom_friction[:, 0] * context.get("friction", 1.0)
    new.actuator_gear[:] = model.actuator_gear * context.get("power", 1.0)
    new.opt.gravity[:] = model.opt.gravity * context.get("gravity", 1.0)
    new.dof_damping[:] = model.dof_damping * context.get("damping", 1.0)
    mujoco.mj_setConst(new, mujoco.MjData(new))
    return new


def verify(model: Any, base: Any, context: Context) -> None:
    """Reads the parameters of an edited model back, and the constants that follow from them.

    Raises:
        ValueError: one of them is not what the context says.
    """
    ratios = {
        "mass": (model.body_mass, base.body_mass),
        "friction": (model.geom_friction[:, 0], base.geom_friction[:, 0]),
        "power": (model.actuator_gear, base.actuator_gear),
        "gravity": (model.opt.gravity, base.opt.gravity),
        "damping": (model.dof_damping, base.dof_damping),
    }
    for name, (now, then) in ratios.items():
        if not np.allclose(now, then * context.get(name, 1.0), rtol=1e-12):
            raise ValueError(f"{name} is not {context.get(name, 1.0)} times the model file's")
    below = model.body_mass.copy()
    for body in range(model.nbody - 1, 0, -1):
        below[model.body_parentid[body]] += below[body]
    if not np.allclose(below, model.body_subtreemass, rtol=1e-9):
        raise ValueError("body_subtreemass does not fit body_mass: mj_setConst was not called after the edit")


class Bodies:
    """See ``Simulators``. ``physics``: each row's simulation and model."""

    def __init__(self, task: str, num_envs: int, threads: int) -> None:
        self.physics, self.task = Physics(task, num_envs, threads), TASKS[task]
        self.obs_space, self.action_space = self.physics.obs_space, self.physics.action_space
        self.frames_per_step, self._goal_m = self.task.frame_skip, _WALKED_M.get(task)
        self._models: dict[str, Any] = {}
        self._playing = [""] * num_envs
        self._queues: list[deque[Array]] = [deque() for _ in range(num_envs)]
        self._sigma, self._elapsed = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._noise: list[np.random.Generator] = [np.random.default_rng(0)] * num_envs

    def model(self, context: Context) -> Any:
        """The context's model, built once."""
        if context.uid not in self._models:
            self._models[context.uid] = edited(self.physics.model, context)
            verify(self._models[context.uid], self.physics.model, context)
        return self._models[context.uid]

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        if changed := [i for i, (r, c) in enumerate(zip(rows, contexts, strict=True)) if self._playing[r] != c.uid]:
            self.physics.use_models(np.asarray(rows)[changed], [self.model(contexts[i]) for i in changed])
        states = []
        for row, context, rng in zip(rows, contexts, noise, strict=True):
            self._playing[row], self._noise[row] = context.uid, rng
            self._sigma[row], self._elapsed[row] = context.get("sensor_noise", 0.0), 0
            still = np.zeros(self.action_space.shape or (), np.float64)
            self._queues[row] = deque([still] * int(context.get("delay", 0)))
            model = self.physics.models[row]
            qpos, qvel = self.task.start(rng if context.seed is None else np.random.default_rng(context.seed), model)
            k = context.get("init_noise", 1.0)
            states.append((qpos, qvel) if k == 1.0 else (model.qpos0 + k * (qpos - model.qpos0), k * qvel))
        self.physics.start(rows, states)
        return self._observe(self.task.obs(self.physics.sim)[rows], rows)

    def step(self, actions: Array) -> Transition:
        applied = actions.astype(np.float64)
        for row, queue in enumerate(self._queues):
            if queue:
                queue.append(applied[row].copy())
                applied[row] = queue.popleft()
        obs, reward, alive = self.physics.advance(applied)
        self._elapsed += 1
        success = None if self._goal_m is None else self.task.position(self.physics.sim) >= self._goal_m
        truncated = self._elapsed >= self.task.max_episode_steps
        return Transition(self._observe(obs, np.arange(len(obs))), reward, ~alive, truncated, success)

    def _observe(self, obs: Array, rows: Array) -> Array:
        for i, row in enumerate(rows):
            if self._sigma[row]:
                obs[i] += self._sigma[row] * self._noise[row].standard_normal(obs.shape[1])
        return obs.astype(np.float32)

    def close(self) -> None:
        """Nothing runs between calls."""
