"""MuJoCo tasks with other bodies: every parameter is a multiplier of the model file's own value.

HalfCheetah and Hopper have the ranges of Packer et al. 2018 (arXiv 1810.12282), made relative to its default D; the
other tasks 0.75 to 1.25 (R) and 0.5 to 0.75 or 1.25 to 1.5 (E). ``mass`` scales masses and inertias (their density),
``power`` the actuators' gear. After an edit ``mj_setConst`` derives what follows from it; ``Bodies.verify`` reads both.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gala_envs.contexts import Context, Parameter, Scalar, Transition, array_hash, draw_distinct
from gala_envs.contract import Array
from gala_envs.families import packer
from gala_envs.mujoco_batch import Physics
from gala_envs.mujoco_tasks import TASKS, Task
from gala_envs.snapshots import State, get_state, set_state
from gala_envs.splits import check_settings

Range = tuple[packer.Interval, tuple[packer.Interval, packer.Interval]]
_USUAL: Range = ((0.75, 1.25), ((0.5, 0.75), (1.25, 1.5)))
_FRICTION: Range = ((0.625, 1.375), ((0.25, 0.625), (1.375, 1.75)))
RANGES: dict[str, dict[str, Range]] = {
    "HalfCheetah-v5": {
        "mass": _USUAL,
        "friction": _FRICTION,
        "power": ((7 / 9, 11 / 9), ((5 / 9, 7 / 9), (11 / 9, 13 / 9))),
    },
    "Hopper-v5": {"mass": _USUAL, "friction": _FRICTION, "power": ((0.8, 1.2), ((8 / 15, 0.8), (1.2, 22 / 15)))},
}
"""Task -> parameter -> (R, E)."""
_WALKED_M = {"HalfCheetah-v5": 20.0, "Hopper-v5": 20.0}
FIELDS: dict[str, tuple[str, ...]] = {
    "mass": ("body_mass", "body_inertia"),
    "friction": ("geom_friction",),
    "power": ("actuator_gear",),
    "gravity": ("opt.gravity",),
    "damping": ("dof_damping",),
}
"""Parameter -> the fields of the model that it multiplies; of friction the sliding coefficient only."""
_FOLLOWING = ("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "actuator_acc0")


class Mujoco:
    """See ``Family``. ``init_mult`` multiplies the noise of the start (Gymnasium's ``reset_noise_scale``),
    ``sensor_noise`` is a standard deviation on every observed number, ``delay`` the decisions that an action is held
    back for (until then the motors rest).

    Raises:
        ValueError: ``task`` is not one of ``TASKS``.
    """

    compares = "all parameters, and the start where the level seed fixes it"
    ARGUMENT = "Hopper-v5"

    def __init__(self, task: str) -> None:
        if task not in TASKS:
            raise ValueError(f"mujoco:{task}: wants one of {', '.join(TASKS)}")
        self.name, self.task_id = f"mujoco:{task}", task
        self.ranges = RANGES.get(task, dict.fromkeys(("mass", "friction", "power"), _USUAL))
        self.regions: tuple[str, ...] = packer.REGIONS
        self.parameters: Mapping[str, Parameter] = dict.fromkeys(FIELDS, Parameter(1.0, 0.01, 100.0)) | {
            "init_mult": Parameter(1.0, 0.0, 100.0),
            "sensor_noise": Parameter(0.0, 0.0, 100.0),
            "delay": Parameter(0, choices=(0, 1, 2, 3, 4, 5)),
        }

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        """Region D has no parameters to draw: its contexts differ in the level seed, which fixes the start."""

        def draw() -> Context:
            drawn = {name: packer.draw(region, 1.0, *ranges, rng) for name, ranges in self.ranges.items()}
            seed = int(rng.integers(2**31)) if region == "D" else None
            return Context.of(self.name, seed, **{**drawn, **settings})

        return draw_distinct(n, draw, self.fingerprint)

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> Bodies:
        """Raises ValueError if a context sets what the family does not have, or sets it out of its range."""
        for context in contexts:
            check_settings(self, dict(context.params))
        return Bodies(self.task_id, contexts, num_envs, threads)

    def fingerprint(self, context: Context) -> str:
        """A hash of the parameters, and of the start where the level seed fixes it."""
        values = {name: float(context.get(name, p.default)) for name, p in self.parameters.items()}
        if context.seed is None:
            return array_hash(np.array(list(values.values())))
        values.pop("init_mult")
        return array_hash(np.array(list(values.values())), *start_of(TASKS[self.task_id], self._model, context))

    @cached_property
    def _model(self) -> Any:
        return Physics(self.task_id, 1, 1).model

    def optimal_return(self, context: Context) -> float | None:
        return None


def start_of(task: Task, model: Any, context: Context, noise: np.random.Generator | None = None) -> tuple[Array, Array]:
    """(qpos [nq], qvel [nv]) of an episode; the level seed, where there is one, goes before ``noise``."""
    rng = np.random.default_rng(noise if context.seed is None else context.seed)
    return task.start(rng, model, float(context.get("init_mult", 1.0)))


def edited(model: Any, context: Context) -> Any:
    """A copy of the task's model with the context's parameters, and with all constants that follow from them."""
    import mujoco

    new = copy.copy(model)
    for parameter, names in FIELDS.items():
        for name in names:
            _values(new, parameter, name)[:] *= context.get(parameter, 1.0)
    mujoco.mj_setConst(new, mujoco.MjData(new))
    return new


def _values(model: Any, parameter: str, name: str) -> Array:
    """What the parameter multiplies in a field of a model: a live view."""
    field = getattr(model.opt, name[4:]) if name.startswith("opt.") else getattr(model, name)
    return field[..., 0] if parameter == "friction" else field


class Bodies:
    """See ``Simulators``. Success is Packer's where they define it: 20 m from the origin in HalfCheetah and Hopper.

    ``physics``: the simulations; each row's model is the task's but for the fields that its context multiplies.
    """

    def __init__(self, task: str, contexts: Sequence[Context], num_envs: int, threads: int) -> None:
        self.physics, self.task = Physics(task, num_envs, threads), TASKS[task]
        self.obs_space, self.action_space = self.physics.obs_space, self.physics.action_space
        self.frames_per_step, self._goal_m = self.task.frame_skip, _WALKED_M.get(task)
        # A field that no context changes stays shared: a step then has less to copy.
        self._changing = [name for name in FIELDS if any(c.get(name, 1.0) != 1.0 for c in contexts)]
        self._multipliers = np.ones((num_envs, len(self._changing)))
        self._queues: list[deque[Array]] = [deque() for _ in range(num_envs)]
        self._sigma, self._elapsed = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._noise: list[np.random.Generator] = [np.random.default_rng(0)] * num_envs

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        self._edit(np.asarray(rows), contexts)
        states = []
        for row, context, rng in zip(rows, contexts, noise, strict=True):
            self._sigma[row], self._noise[row], self._elapsed[row] = context.get("sensor_noise", 0.0), rng, 0
            still = np.zeros(self.action_space.shape or (), np.float64)
            self._queues[row] = deque([still] * int(context.get("delay", 0)))
            states.append(start_of(self.task, self.physics.model, context, rng))
        self.physics.start(rows, states)
        return self._observe(self.task.obs(self.physics.sim)[rows], rows)

    def _edit(self, rows: Array, contexts: Sequence[Context]) -> None:
        """Gives rows the models of their contexts; ``mj_setConst`` costs 12 us (Hopper) to 40 us (Humanoid) a row."""
        self._multiply(rows, np.array([[c.get(name, 1.0) for name in self._changing] for c in contexts], np.float64))

    def _multiply(self, rows: Array, wanted: Array) -> None:
        """``wanted`` [rows, fields that change]."""
        stale = (self._multipliers[rows] != wanted).any(1)
        if not stale.any():
            return
        rows, wanted = rows[stale], wanted[stale]
        for parameter, k in zip(self._changing, wanted.T, strict=True):
            for name in FIELDS[parameter]:
                live, base = self.physics.batch.expand(name), _values(self.physics.model, parameter, name)
                now = live[..., 0] if parameter == "friction" else live
                now[rows] = base * k.reshape(-1, *[1] * base.ndim)
        self.physics.call(self.physics.batch.set_const, rows)
        self._multipliers[rows] = wanted

    def verify(self, row: int, context: Context) -> None:
        """Reads the parameters of a row back, and the constants that follow from them.

        Raises:
            ValueError: one of them is not what the context says.
        """
        now, wanted = self.physics.batch.get_model(row), edited(self.physics.model, context)
        for parameter, names in FIELDS.items():
            for name in names:
                if not np.array_equal(_values(now, parameter, name), _values(wanted, parameter, name)):
                    raise ValueError(f"row {row}: {name} does not fit {parameter}={context.get(parameter, 1.0)}")
        for name in _FOLLOWING:
            if not np.allclose(getattr(now, name), getattr(wanted, name), rtol=1e-12, atol=0):
                raise ValueError(f"row {row}: {name} does not fit the parameters: call set_const after an edit")

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

    def get_state(self) -> State:
        """See ``gala_envs.snapshots``."""
        names = ("_multipliers", "_queues", "_sigma", "_elapsed", "_noise")
        return {"physics": get_state(self.physics)} | {name: getattr(self, name) for name in names}

    def set_state(self, state: State) -> None:
        self._multiply(np.arange(len(self._elapsed)), state.pop("_multipliers"))
        set_state(self.physics, state.pop("physics"))
        vars(self).update(state)

    def close(self) -> None:
        """Nothing runs between calls."""
