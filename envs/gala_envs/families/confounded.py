"""Observational overfitting: each context shows the same task next to a projection of it that is the context's own.

Song, Jiang, Tu, Du and Neyshabur 2020 (arXiv 1912.02975): o = (f(s), g_theta(s)). Here f(s) is the observation s of
the base family, alike in all contexts, and g_theta(s) = W s with W drawn from ``theta``. The policy that reads g learns
nothing about another context, although g tells everything about this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from gala_envs.contexts import Context, Parameter, Simulators, Transition, array_hash
from gala_envs.contract import Array
from gala_envs.families import make_family
from gala_envs.families.added import Added

_OWN: dict[str, Parameter] = {
    "theta": Parameter(0, 0, 2**31 - 1),
    "noise_dims": Parameter(16, 1, 10_000),
    "shown": Parameter("both", choices=("both", "f", "g")),
}


class Confounded:
    """See ``Family``. On any family whose observations are float vectors.

    A context is one of the base family's with ``theta`` added. ``shown``: both (f, g), or f or g alone: f is the
    control that cannot be confounded, g measures how much the policy can memorise. ``noise_dims``: the width of g.
    """

    compares = "what the base family compares, and the projection"
    ARGUMENT = "classic:CartPole-v1"

    def __init__(self, base: str) -> None:
        """Raises ValueError if there is no such base family, or its parameters have a name that is used here."""
        self.name = f"confounded:{base}"
        self._added = Added(self.name, make_family(base), _OWN, "theta", self.fingerprint)
        self.base, self.inner = self._added.base, self._added.inner
        self.regions, self.parameters, self.sample = self.base.regions, self._added.parameters, self._added.sample

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> _Confounded:
        """Raises ValueError if the observations are no float vectors, or the contexts differ in what they show."""
        for name in ("noise_dims", "shown"):
            if len(values := {self._added.value(c, name) for c in contexts}) > 1:
                raise ValueError(f"{self.name}: all contexts of a set must have one {name}, not {sorted(values)}")
        return _Confounded(
            self.base.simulators([self.inner(c) for c in contexts], num_envs, threads), self, contexts[0], num_envs
        )

    def fingerprint(self, context: Context) -> str:
        own = [str(self._added.value(context, name)) for name in _OWN]
        return array_hash(np.array([self.base.fingerprint(self.inner(context)), *own]))

    def optimal_return(self, context: Context) -> float | None:
        """That of the base where f is shown; g alone may be too narrow to tell the state."""
        return None if context.get("shown", "both") == "g" else self.base.optimal_return(self.inner(context))


def projection(context: Context, num_inputs: int) -> Array:
    """W of g_theta: [noise_dims, num_inputs], normal with variance 1/num_inputs, so that g is of the scale of s."""
    rng = np.random.default_rng(int(context.get("theta", 0)))
    noise_dims = int(context.get("noise_dims", _OWN["noise_dims"].default))
    return rng.normal(0.0, num_inputs**-0.5, (noise_dims, num_inputs)).astype(np.float32)


class _Confounded:
    """See ``Simulators``."""

    SAVED = ("_base", "_w")

    def __init__(self, base: Simulators, family: Confounded, like: Context, num_envs: int) -> None:
        space = base.obs_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1 or space.dtype != np.float32:
            raise ValueError(f"{family.name}: the base must have observations that are float vectors, not {space}")
        self._base, self._family, self._shown = base, family, str(like.get("shown", "both"))
        self.action_space, self.frames_per_step = base.action_space, base.frames_per_step
        self._w = np.zeros((num_envs, *projection(like, space.shape[0]).shape), np.float32)
        unbounded = np.full(self._w.shape[1], np.inf, np.float32)
        low, high = {
            "both": (np.append(space.low, -unbounded), np.append(space.high, unbounded)),
            "f": (space.low, space.high),
            "g": (-unbounded, unbounded),
        }[self._shown]
        self.obs_space: gym.Space = gym.spaces.Box(low, high, dtype=np.float32)

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        for row, context in zip(rows, contexts, strict=True):
            self._w[row] = projection(context, self._w.shape[2])
        return self._show(self._base.start(rows, [self._family.inner(c) for c in contexts], noise), rows)

    def step(self, actions: Array) -> Transition:
        t = self._base.step(actions)
        return t._replace(obs=self._show(t.obs, np.arange(len(actions))))

    def _show(self, obs: Array, rows: Array) -> Array:
        if self._shown == "f":
            return obs
        # einsum sums in one order for any number of rows; a batched matrix product may not.
        g = np.einsum("bij,bj->bi", self._w[rows], obs)
        return g if self._shown == "g" else np.concatenate([obs, g], 1)

    def close(self) -> None:
        self._base.close()
