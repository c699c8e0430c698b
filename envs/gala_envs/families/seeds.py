"""Any Gymnasium environment, where a context is a level seed: what it draws from ``np_random`` is the same every time.

``reset(seed=level seed)`` fixes the start, and everything that the environment draws after it too: within one context
it is deterministic. Noise that a context does not fix is ``ContextualEnv``'s (sticky actions, noise on observations).
Initial-state multiplier and discretised actions: Zhang, Ballas and Pineau 2018 (arXiv 1806.07937).
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from gala_envs.contexts import Context, Parameter, Scalar, Transition, array_hash, draw_distinct
from gala_envs.contract import Array, EnvError
from gala_envs.identity import roll_hash
from gala_envs.snapshots import State, python_state, set_python_state
from gala_envs.spaces import action_adapter, each_row, observation_adapter, stack_observations

_STARTS: dict[str, dict[str, float]] = {
    "CartPole": {"low": -0.05, "high": 0.05},
    "Acrobot": {"low": -0.1, "high": 0.1},
    "MountainCar": {"low": -0.6, "high": -0.4},
    "MountainCarContinuous": {"low": -0.6, "high": -0.4},
    "Pendulum": {"x_init": np.pi, "y_init": 1.0},
}
"""Name -> the bounds of the initial state, as ``reset(options=...)`` takes them."""


class Seeds:
    """See ``Family``. Two contexts are the same MDP if they start in the same state, and fixed actions lead through
    the same observations and rewards.

    ``init_mult`` k multiplies the initial state of classic control: state(k) = k state(1), seed by seed. In MuJoCo it
    multiplies ``reset_noise_scale``, the deviation from the pose at rest. Other environments have no such parameter.
    ``action_bins`` > 1 cuts the range of each number of a continuous action into so many parts and offers their middle.
    """

    ARGUMENT = "CartPole-v1"
    compares = "the start, and what comes of 4 fixed sequences of 16 actions"
    regions: tuple[str, ...] = ("seeds",)

    def __init__(self, env_id: str) -> None:
        """Raises ValueError if the environment is unknown, cannot be made, or is one of ALE's."""
        try:
            spec = None if env_id.startswith("ALE/") else _spec(env_id)
            entry = spec and spec.entry_point
            creator: Any = load_env_creator(entry) if isinstance(entry, str) else entry
        except (gym.error.Error, ImportError) as error:
            raise ValueError(f"seeds:{env_id}: {error}") from None
        if spec is None or str(entry).startswith("ale_py"):
            raise ValueError(
                f"seeds:{env_id}: ALE seeds are not distinct MDPs: without sticky actions all start from the same "
                "state; use the ale family, as in ale:Pong"
            )
        self.name, self._id = f"seeds:{env_id}", env_id
        self._start = {} if spec.namespace else _STARTS.get(spec.name, {})
        signature = {} if self._start else inspect.signature(creator).parameters
        self._noise_scale = signature["reset_noise_scale"].default if "reset_noise_scale" in signature else None
        wider = {"init_mult": Parameter(1.0, 0.0)} if self._start or self._noise_scale else {}
        self.parameters: Mapping[str, Parameter] = {"action_bins": Parameter(0, 0, 1001)} | wider
        self._probes: dict[int, _Rows] = {}

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        return draw_distinct(n, lambda: Context.of(self.name, int(rng.integers(2**31)), **settings), self.fingerprint)

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> _Rows:
        bins = {int(c.get("action_bins", 0)) for c in contexts}
        if len(bins) > 1:
            raise ValueError(f"{self.name}: all contexts of a set must have the same action_bins")
        return _Rows(self, num_envs, bins.pop())

    def fingerprint(self, context: Context) -> str:
        """A hash of what fixed actions lead to, and of the state at the start where the environment shows it."""
        bins = int(context.get("action_bins", 0))
        if bins not in self._probes:
            self._probes[bins] = _Rows(self, 1, bins)
        probe = self._probes[bins]
        rolled = roll_hash(probe, context)
        probe.start(np.arange(1), [context], [np.random.default_rng(0)])
        env: Any = probe._rows[0].unwrapped
        simulator: Any = getattr(env, "data", None)
        state = getattr(env, "state", None)
        start = [simulator.qpos, simulator.qvel] if hasattr(simulator, "qpos") else [state]
        return array_hash(np.array(rolled), *(x for x in start if isinstance(x, np.ndarray)))

    def optimal_return(self, context: Context) -> float | None:
        return None

    def make(self, mult: float, action_bins: int = 0) -> gym.Env:
        """One environment for contexts of this ``init_mult`` and ``action_bins``. Raises ValueError if it cannot be."""
        scaled = {"reset_noise_scale": mult * self._noise_scale} if self._noise_scale and mult != 1 else {}
        try:
            env: gym.Env = gym.make(self._id, disable_env_checker=True, **scaled)
            if action_bins > 1 and not isinstance(env.action_space, gym.spaces.Box):
                raise ValueError(f"{self.name}: action_bins is for continuous actions, and these are discrete")
            return gym.wrappers.DiscretizeAction(env, action_bins, multidiscrete=True) if action_bins > 1 else env
        except (gym.error.Error, ImportError) as error:
            raise ValueError(f"{self.name}: {error}") from None

    def reset(self, env: gym.Env, context: Context) -> Any:
        """The context's first observation, as Gymnasium gives it.

        Raises:
            ValueError: ``init_mult`` is so large that the start lies outside the observation space.
        """
        mult = init_mult(context)
        if mult == 1 or not self._start:
            return env.reset(seed=context.seed)[0]
        obs, _ = env.reset(seed=context.seed, options={name: mult * bound for name, bound in self._start.items()})
        if not env.observation_space.contains(obs):
            raise ValueError(f"init_mult={mult:g} starts {self._id} outside its observation space; lower it")
        return obs


def _spec(env_id: str) -> Any:
    """What is registered as ``Name-v0``; of ``module:Name-v0``, once that module has been imported.

    Raises:
        ValueError: the module fails while it is imported, or it is a class that is named and no id.
    """
    module, _, name = env_id.rpartition(":")
    try:
        found = getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"seeds:{env_id}: {module} fails: {type(error).__name__}: {error}") from error
    if callable(found):
        raise ValueError(
            f"seeds:{env_id}: a family of seeds needs a registered id. Add to {module}: gymnasium.register("
            f'"{name}-v0", entry_point="{module}:{name}"), and say seeds:{module}:{name}-v0'
        )
    return gym.spec(name)


def init_mult(context: Context) -> float:
    """What the range of starts is multiplied by; 1 where the context says nothing."""
    return float(context.get("init_mult", 1.0))


class _Rows:
    """See ``Simulators``. One Gymnasium environment per row and ``init_mult``, stepped in a loop."""

    frames_per_step = 1

    def __init__(self, family: Seeds, num_envs: int, action_bins: int) -> None:
        self._family, self._bins = family, action_bins
        self._made: list[dict[float, gym.Env]] = [{} for _ in range(num_envs)]
        space = family.make(1.0, action_bins)
        self.obs_space: gym.Space
        self.obs_space, self._convert = observation_adapter(space.observation_space, family.name)
        self.action_space, self._to_simulators = action_adapter(space.action_space, family.name)
        self._spaces = space.observation_space, space.action_space
        self._rows: list[Any] = [space] * num_envs
        space.close()

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        obs = []
        for row, context in zip(rows, contexts, strict=True):
            mult, made = init_mult(context), self._made[row]
            if mult not in made:
                made[mult] = self._family.make(mult, self._bins)
            self._rows[row] = made[mult]
            obs.append(self._family.reset(made[mult], context))
        return self._convert(stack_observations(self._spaces[0], obs))

    def step(self, actions: Array) -> Transition:
        obs, reward, terminated, truncated = [], [], [], []
        asked = each_row(self._spaces[1], self._to_simulators(actions))
        for row, (env, action) in enumerate(zip(self._rows, asked, strict=True)):
            try:
                o, r, dead, late, _ = env.step(action)
            except Exception as error:
                raise EnvError(f"{self._family.name}, row {row}: {type(error).__name__}: {error}") from error
            obs.append(copy.deepcopy(o))  # some environments write the next observation into the same array
            reward.append(r)
            terminated.append(dead)
            truncated.append(late)
        return Transition(
            self._convert(stack_observations(self._spaces[0], obs)),
            np.array(reward, float),
            np.array(terminated, bool),
            np.array(truncated, bool),
        )

    def get_state(self) -> State:
        """See ``gala_envs.snapshots``; what the environments hold must be data."""
        pairs = zip(self._made, self._rows, strict=True)
        return [[next(m for m, env in made.items() if env is row), python_state(row)] for made, row in pairs]

    def set_state(self, state: State) -> None:
        for row, (mult, its) in enumerate(state):
            if mult not in self._made[row]:
                self._made[row][mult] = self._family.make(mult, self._bins)
            self._rows[row] = self._made[row][mult]
            self._rows[row].reset()
            set_python_state(self._rows[row], its)

    def close(self) -> None:
        for made in self._made:
            for env in made.values():
                env.close()
            made.clear()
