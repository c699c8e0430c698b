"""Classic control with other masses, lengths and forces: the D, R and E of Packer et al. 2018 (arXiv 1810.12282).

D is Gymnasium's own physics, R a box around it, E the intervals outside R, from which a context of E takes everything.
A context without a level seed starts each episode anew; one with a seed always starts from the same state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gymnasium as gym
import numpy as np

from gala_envs.contexts import Context, Parameter, Scalar, Transition, array_hash, draw_distinct
from gala_envs.contract import Array
from gala_envs.families import packer
from gala_envs.families.classic_dynamics import TASKS, Task
from gala_envs.splits import check_settings


class Classic:
    """See ``Family``. ``init_mult`` k multiplies the state in which an episode starts: state(k) = k state(1).

    Raises:
        ValueError: ``task`` is not one of ``TASKS``.
    """

    compares = "all parameters, and the start where the level seed fixes it"
    ARGUMENT = "CartPole-v1"

    def __init__(self, task: str) -> None:
        if task not in TASKS:
            raise ValueError(f"classic:{task}: wants one of {', '.join(TASKS)}")
        self.name, self.task = f"classic:{task}", TASKS[task]
        self.regions: tuple[str, ...] = packer.REGIONS
        self.parameters: Mapping[str, Parameter] = {
            name: Parameter(default, outside[0][0], outside[1][1])
            for name, (default, _, outside) in self.task.ranges.items()
        } | {"init_mult": Parameter(1.0, 0.0, self.task.widest_start)}

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        """Region D has no parameters to draw: its contexts differ in the level seed."""

        def draw() -> Context:
            drawn = {name: packer.draw(region, *ranges, rng) for name, ranges in self.task.ranges.items()}
            seed = int(rng.integers(2**31)) if region == "D" else None
            return Context.of(self.name, seed, **{**drawn, **settings})

        return draw_distinct(n, draw, self.fingerprint)

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> Rows:
        """Raises ValueError if a context sets what the family does not have, or sets it out of its range."""
        for context in contexts:
            check_settings(self, dict(context.params))
        return Rows(self.task, self.parameters, num_envs)

    def fingerprint(self, context: Context) -> str:
        """Parameters of the physics, and of the start where the level seed fixes it."""
        values = {name: float(context.get(name, p.default)) for name, p in self.parameters.items()}
        if context.seed is None:
            return array_hash(np.array(list(values.values())))
        start = self.task.start(np.random.default_rng(context.seed)) * values.pop("init_mult")
        return array_hash(np.array(list(values.values())), start)

    def optimal_return(self, context: Context) -> float | None:
        return None


class Rows:
    """See ``Simulators``. ``params``: what each row's physics is at the moment; ``state``: in float64."""

    SAVED = ("params", "state", "_elapsed", "_calm")
    frames_per_step = 1

    def __init__(self, task: Task, parameters: Mapping[str, Parameter], num_envs: int) -> None:
        self.task, self.action_space = task, task.action_space
        self.obs_space: gym.Space = task.obs_space
        self._defaults = {name: float(p.default) for name, p in parameters.items()}
        self.params = {name: np.full(num_envs, default) for name, default in self._defaults.items()}
        self.state = np.zeros((num_envs, len(task.start(np.random.default_rng(0)))))
        self._elapsed, self._calm = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        for row, context, rng in zip(rows, contexts, noise, strict=True):
            for name, default in self._defaults.items():
                self.params[name][row] = float(context.get(name, default))
            start = self.task.start(rng if context.seed is None else np.random.default_rng(context.seed))
            self.state[row] = start * self.params["init_mult"][row]
        self._elapsed[rows] = self._calm[rows] = 0
        return self.task.observe(self.state[rows]).astype(np.float32)

    def step(self, actions: Array) -> Transition:
        if actions.dtype.kind == "f":
            actions = actions.astype(np.float64)
        self.state, reward, terminated = self.task.advance(self.state, actions, self.params)
        self._elapsed += 1
        upright = np.abs((self.state[:, 0] + np.pi) % (2 * np.pi) - np.pi) <= np.pi / 3
        self._calm = np.where(upright, self._calm + 1, 0)
        success = self.task.success(self._elapsed, terminated, self._calm)
        truncated = self._elapsed >= self.task.limit
        return Transition(self.task.observe(self.state).astype(np.float32), reward, terminated, truncated, success)

    def close(self) -> None:
        """Nothing is held but memory."""
